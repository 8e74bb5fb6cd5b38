"""What the service is made of may be passed on, and README and SECURITY.md say how to run and report."""

import re
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
FREE = re.compile(
    r"MIT|BSD|Apache|ISC|Python Software Foundation|PSF|ZPL|Zope Public|MPL|Mozilla Public", re.IGNORECASE
)
BOUND = re.compile(r"\b(A|L)?GPL|Affero|Lesser|Proprietary|Commercial", re.IGNORECASE)
DIRECT = re.compile(r"dependencies = \[\n(.*?)\n\]", re.DOTALL)


def needed(name, extras=frozenset()):
    """A package and everything it requires here, by their names."""
    found, ahead = {}, [(canonicalize_name(name), extras)]
    while ahead:
        name, extras = ahead.pop()
        if name in found:
            continue
        found[name] = distribution(name)
        for line in found[name].requires or ():
            each = Requirement(line)
            if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                ahead.append((canonicalize_name(each.name), frozenset(each.extras)))
    return found


def licence(package):
    """What its metadata says: the expression, else the classifiers, else the first line of the field."""
    said = package.metadata
    classifiers = [each for each in said.get_all("Classifier") or () if each.startswith("License ::")]
    return said["License-Expression"] or "; ".join(classifiers) or (said["License"] or "").split("\n")[0]


def direct():
    table = DIRECT.search((ROOT / "pyproject.toml").read_text("utf-8"))[1]
    return [Requirement(line.strip(' ",')) for line in table.splitlines()]


def test_every_licence_lets_the_service_be_passed_on():
    packages = {name: each for one in direct() for name, each in needed(one.name, one.extras).items()}
    assert len(packages) >= 15
    refused = {name: licence(each) for name, each in packages.items()}
    refused = {name: said for name, said in refused.items() if not FREE.search(said) or BOUND.search(said)}
    assert refused == {}


def test_what_is_imported_is_pinned():
    pinned = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.txt").read_text("utf-8"), re.MULTILINE))
    assert {name for one in direct() for name in needed(one.name, one.extras)} <= pinned

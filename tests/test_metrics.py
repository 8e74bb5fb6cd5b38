"""What operators see: ids, counts, the access log, and the limit of a client."""

import json
import os
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from routes import watching
from routes.watching import REMEMBERED, AccessLog, Limit, network
from server import create_app

SIZES = {"model_size": 7, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
CASES = [  # method, path, body, the route and the status it is counted under
    ("POST", "/api/memory/inference", json.dumps(SIZES), "/api/memory/inference", "200"),
    ("POST", "/api/memory/inference", "{", "/api/memory/inference", "400"),
    ("POST", "/api/memory/compare", "{}", "/api/memory/compare", "400"),
    ("GET", "/api/models/Qwen3-8B", None, "/api/models/<path:name>", "200"),
    ("GET", "/api/models/nobody", None, "/api/models/<path:name>", "404"),
    ("GET", "/health", None, "/health", "200"),
    ("HEAD", "/health", None, "/health", "200"),
    ("GET", "/nowhere/at/all", None, "none", "404"),
    ("PUT", "/health", None, "none", "405"),
    ("BREW", "/health", None, "none", "405"),
]


def scraped(client):
    reply = client.get("/metrics")
    assert reply.status_code == 200 and reply.content_type.startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(reply.get_data(as_text=True))
    return {(each.name, *sorted(each.labels.items())): each.value for family in families for each in family.samples}


@pytest.mark.parametrize(("method", "path", "body", "route", "status"), CASES)
def test_a_request_is_counted_by_route_and_status(method, path, body, route, status):
    client = create_app().test_client()
    for _ in range(2):
        assert str(client.open(path, method=method, data=body).status_code) == status
    labels = [("method", method if method != "BREW" else "other"), ("route", route), ("status", status)]
    found = scraped(client)
    assert found["http_requests_total", *labels] == 2
    assert found["http_request_duration_seconds_count", *labels] == 2
    assert found["http_request_duration_seconds_bucket", *sorted([*labels, ("le", "+Inf")])] == 2
    assert 0 < found["http_request_duration_seconds_sum", *labels] < 60


def test_buckets_of_latency_add_up():
    app = create_app()
    for seconds in (0.0001, 0.0005, 0.0006, 0.3, 11):  # a bound is inside its own bucket
        app.watch.counts.add(("GET", "/x", "200"), seconds)
    found = scraped(app.test_client())
    labels = [("method", "GET"), ("route", "/x"), ("status", "200")]
    below = {
        bound: found["http_request_duration_seconds_bucket", ("le", bound), *labels] for bound in ("0.0005", "0.5")
    }
    assert below == {"0.0005": 2, "0.5": 4}
    assert found["http_request_duration_seconds_sum", *labels] == pytest.approx(11.3012)


def test_strangers_cannot_make_up_series():
    app = create_app()
    client = app.test_client()
    for n in range(50):
        client.open(f"/{n}", method=f"X{n}")
        client.get(f"/api/models/{n}")
    assert len(app.watch.counts.series) == 2


def test_what_the_process_holds_is_told():
    found = scraped(create_app().test_client())
    assert found["process_resident_memory_bytes",] > 2**20
    assert found["llm_memory_damaged_model_files",] == 0
    assert next(value for key, value in found.items() if key[0] == "llm_memory_models") > 100


@pytest.mark.parametrize(("method", "path", "body", "route", "status"), CASES)
def test_every_reply_has_an_id_and_says_the_one_that_was_sent(method, path, body, route, status):
    client = create_app().test_client()
    said = client.open(path, method=method, data=body, headers={"X-Request-ID": "from-a.proxy_1"})
    assert said.headers.getlist("X-Request-ID") == ["from-a.proxy_1"]
    made = [client.open(path, method=method, data=body).headers["X-Request-ID"] for _ in range(2)]
    assert made[0] != made[1] and all(re.fullmatch(r"[0-9a-f]{12}-\d+", each) for each in made)


@pytest.mark.parametrize("bad", ["", "a b", "é", "x" * 101, '"}', "<b>"])
def test_an_id_that_is_none_is_replaced(bad):
    reply = create_app().test_client().get("/health", headers={"X-Request-ID": bad})
    assert re.fullmatch(r"[0-9a-f]{12}-\d+", reply.headers["X-Request-ID"])


def logging(monkeypatch, target):
    monkeypatch.setenv("LLM_MEMORY_ACCESS_LOG", str(target))
    return create_app()


def test_the_access_log_has_a_line_of_json_for_each_request(monkeypatch, tmp_path):
    app = logging(monkeypatch, tmp_path / "access.log")
    client = app.test_client()
    for method, path, body, _, _ in CASES:
        client.open(path + "?secret=1", method=method, data=body, headers={"X-Request-ID": "mine"})
    client.get("/api/models/%0A%22%C3%A9%FF")
    app.watch.log.flush()
    text = (tmp_path / "access.log").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(each["method"], each["path"], each["route"], str(each["status"])) for each in lines[:-1]] == [
        (method, path, route, status) for method, path, _, route, status in CASES
    ]
    assert lines[-1]["path"] == '/api/models/\n"é\ufffd'
    assert {each["request_id"] for each in lines[:-1]} == {"mine"}
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", each["time"]) for each in lines)
    assert all(each["client"] == "127.0.0.1" and each["milliseconds"] > 0 for each in lines)
    assert "secret" not in text and "hidden_size" not in text


def test_a_log_that_was_renamed_is_begun_anew(monkeypatch, tmp_path):
    app = logging(monkeypatch, tmp_path / "access.log")
    for _ in range(2):
        app.test_client().get("/health")
        app.watch.log.flush()
        (tmp_path / "access.log").rename(tmp_path / "old.log")
        assert len((tmp_path / "old.log").read_text().splitlines()) == 1


def test_a_log_that_cannot_be_written_fails_no_request(monkeypatch, tmp_path):
    app = logging(monkeypatch, tmp_path / "no" / "folder" / "access.log")
    assert app.test_client().get("/health").status_code == 200
    app.watch.log.flush()
    assert not app.watch.log.waiting


def test_a_log_nobody_reads_holds_nobody_up(monkeypatch):
    """A pipe is full after 64 KiB, and its writer waits; those who take note do not."""
    reading, writing = os.pipe()
    monkeypatch.setitem(watching.STREAMS, "stdout", writing)
    log = AccessLog("stdout")
    for n in range(5_000):
        log.add((0.0, str(n), "127.0.0.1", "GET", "/health", "/health", "200", 0.001))
    log.close(0.05)
    assert log.thread.is_alive()
    text = b""
    while text.count(b"\n") < 5_000:
        text += os.read(reading, 2**16)
    assert [json.loads(line)["request_id"] for line in text.splitlines()] == [str(n) for n in range(5_000)]


def test_without_a_setting_nothing_is_logged_and_nobody_limited():
    watch = create_app().watch
    assert watch.log is None and watch.limit is None


def test_a_client_that_asks_too_often_is_told_when_to_come_back(monkeypatch):
    monkeypatch.setenv("LLM_MEMORY_REQUESTS_PER_MINUTE", "3")
    client = create_app().test_client()

    def ask(address="192.0.2.1"):
        return client.post("/api/memory/inference", json=SIZES, environ_overrides={"REMOTE_ADDR": address})

    assert [ask().status_code for _ in range(4)] == [200, 200, 200, 429]
    refused = ask()
    assert 1 <= int(refused.headers["Retry-After"]) <= 21 and "ask again in" in refused.get_json()["error"]
    assert refused.headers["Access-Control-Allow-Origin"] == "*" and refused.headers["X-Request-ID"]
    assert ask("192.0.2.2").status_code == 200
    for probe in ("/health", "/metrics"):
        assert client.get(probe, environ_overrides={"REMOTE_ADDR": "192.0.2.1"}).status_code == 200


def test_what_was_used_comes_back_evenly():
    limit = Limit(60)
    assert [limit.wait("a", 100.0) for _ in range(60)] == [0.0] * 60
    assert limit.wait("a", 100.0) == pytest.approx(1)  # one a second
    assert limit.wait("a", 100.5) == pytest.approx(0.5)
    assert [limit.wait("a", 102.0), limit.wait("a", 102.0)] == [0.0, 0.0]
    assert limit.wait("a", 102.0) == pytest.approx(1)


def test_the_memory_of_clients_is_bounded():
    limit = Limit(1)
    for n in range(3 * REMEMBERED):
        limit.wait(str(n), 100.0)
    assert len(limit.full) <= REMEMBERED
    assert limit.wait(str(3 * REMEMBERED - 1), 100.0) > 0  # whoever asked last is remembered


@pytest.mark.parametrize(
    ("address", "whom"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("", ""),
        ("not:an:address", "not:an:address"),
    ],
)
def test_a_client_is_an_address_or_its_network(address, whom):
    assert network(address) == whom


@pytest.mark.parametrize("bad", ["-1", "ten", "1.5", "9" * 10])
def test_a_limit_that_is_no_number_is_said_at_start(monkeypatch, bad):
    monkeypatch.setenv("LLM_MEMORY_REQUESTS_PER_MINUTE", bad)
    with pytest.raises(ValueError, match="LLM_MEMORY_REQUESTS_PER_MINUTE must be a whole number"):
        create_app()

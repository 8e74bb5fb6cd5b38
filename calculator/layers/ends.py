"""The two ends of a model: the embedding before the layers, the norm, head and loss after them."""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import FLOAT, LONG, SEQUENCES, TOKENS, WIDTH, Node, Size, Tape, Value, as_inputs, scaled
from ..tensors import Cut, Tensor
from ..units import ceil_div
from .norms import Norm


@dataclass(frozen=True, slots=True)
class Embedding:
    """The table of tokens, and of positions where they are learned.

    width      of the table
    projected  width of the hidden states where a matrix follows the table (opt-350m), else 0
    positions  rows of a learned table of positions, 0 if there is none
    positions_each  whether every sequence looks its positions up for itself (OPT)
    types      rows of a table of token types (BERT)
    norm       after the sum, where a family has one
    scaled     whether the rows are multiplied by a constant (Gemma, Granite)
    scaled_after   whether that happens outside the embedding's own module (Granite)
    both_held      whether the rows keep a name beside the multiplied ones (AFM)
    dropout    rate while training
    dropout_first  whether the variable that holds the rows is overwritten by their dropout (Phi)
    """

    vocabulary: int
    width: int
    name: str = "embed_tokens"
    positions: int = 0
    position_name: str = "embed_positions"
    positions_each: bool = False
    types: int = 0
    norm: Norm | None = None
    projected: int = 0
    scaled: bool = False
    dropout: float = 0.0
    dropout_first: bool = False
    scaled_after: bool = False
    both_held: bool = False

    def tensors(self) -> tuple[Tensor, ...]:
        """Tokens × width, positions × width, and what follows them."""
        rows, width = self.vocabulary, self.width
        made = [Tensor(f"{self.name}.weight", (rows, width), "embedding", "embedding", False, Cut.TENSOR, rows)]
        if self.positions:
            shape = (self.positions, self.projected or width)
            made.append(Tensor(f"{self.position_name}.weight", shape, "embedding", "position"))
        if self.types:
            made.append(Tensor("token_type_embeddings.weight", (self.types, width), "embedding", "position"))
        if self.projected:
            made.append(Tensor("project_in.weight", (self.projected, width), "other", "other", True))
        if self.norm is not None:
            made += self.norm.tensors()
        return tuple(made)

    def _adapted(self, tape: Tape, x: Value) -> Value:
        """Adapters on the table itself, where a request names it: rows of a narrow table, brought to the width."""
        adapter = tape.mode.adapter
        if adapter is None or self.name not in adapter.targets:
            return x
        rows = tape.mode.queries
        narrow = tape.parameter(adapter.rank * self.vocabulary, True, adapter.dtype)
        low = tape.operate(scaled(rows, adapter.rank), adapter.dtype, (narrow,), (), as_inputs)
        wide = tape.product(low, tape.parameter(adapter.rank * self.width, True, adapter.dtype), rows, self.width)
        del low
        return tape.cast(tape.add(x, tape.scale(wide)), x.dtype)

    def forward(self, tape: Tape) -> Value:
        """The hidden states that enter the first layer. `tape.held` gets what the model's own variables keep alive."""
        rows = tape.mode.queries
        x = self._adapted(tape, tape.embed(rows, self.vocabulary, self.width))
        if self.scaled:
            if tape.asked and self.scaled_after:
                tape.leaves.append(x.storage)
            if self.both_held:
                tape.held.append(x)
            x = tape.scale(x)
        if tape.asked:
            x.node = Node((), [x.storage], lambda tape, grads, node: [])
        positions = None
        if self.positions:
            wide = self.projected or self.width
            asked = rows if self.positions_each else tape.mode.query_positions
            indices = tape.new(asked, LONG)
            positions = tape.embed(asked, self.positions, wide, indices=indices)
            del indices
            tape.held.append(positions)
        if self.projected:
            x = tape.linear(x, self.width, self.projected, module="project_in")
        if self.dropout_first:
            x = tape.dropout(x, self.dropout)
        if not self.both_held:
            tape.held.append(x)
        if positions is not None:
            x = tape.add(x, positions)
        if self.types:
            x = tape.add(x, tape.embed(rows, self.types, self.width))
        if self.norm is not None:
            x = self.norm.forward(tape, x)
        return x if self.dropout_first else tape.dropout(x, self.dropout)


@dataclass(frozen=True, slots=True)
class Head:
    """The last norm and the matrix to the vocabulary, tied to the embedding or not.

    projected  width the hidden states are brought to before the matrix (opt-350m), else 0
    softcap    whether logits are capped by tanh (Gemma 2)
    scaled     whether logits are multiplied by a constant (Cohere, Granite)
    widened    whether logits are handed on in float32 (Mamba)
    shrunk     whether hidden states are multiplied by a constant before the matrix (MiniCPM 3)
    narrow_loss  whether the loss is computed in the logits' dtype (BERT, T5)
    """

    vocabulary: int
    width: int
    tied: bool
    norm: Norm | None
    name: str = "lm_head"
    bias: bool = False
    projected: int = 0
    softcap: bool = False
    scaled: bool = False
    widened: bool = False
    shrunk: bool = False
    narrow_loss: bool = False

    def tensors(self) -> tuple[Tensor, ...]:
        """The norm's weights and the matrix, unless it is the embedding's."""
        made = list(self.norm.tensors()) if self.norm is not None else []
        into = self.projected or self.width
        if self.projected:
            made.append(Tensor("project_out.weight", (self.projected, self.width), "other", "other", True))
        if not self.tied:
            rows = self.vocabulary
            made.append(Tensor(f"{self.name}.weight", (rows, into), "lm_head", "output", True, Cut.TENSOR, rows))
        if self.bias:
            made.append(Tensor(f"{self.name}.bias", (self.vocabulary,), "lm_head", "bias"))
        return tuple(made)

    def final(self, tape: Tape, x: Value) -> Value:
        """What the model hands to its head."""
        if self.norm is not None:
            x = self.norm.forward(tape, x)
        if self.projected:
            x = tape.linear(x, self.width, self.projected, module="project_out")
        if self.shrunk:
            tape.lingering.append(x)  # the model's output holds what is not yet scaled
            x = tape.scale(x)
        return x

    def logits(self, tape: Tape, x: Value, rows: Size) -> Value:
        """`rows` × vocabulary."""
        into = self.projected or self.width
        logits = tape.linear(x, into, self.vocabulary, self.bias, "", rows)
        adapter = tape.mode.adapter
        if adapter is not None and self.name in adapter.targets:  # never one of "all-linear"
            update = tape.update(tape.cast(x, adapter.dtype), into, self.vocabulary, rows, adapter)
            logits = tape.cast(tape.add(logits, update), logits.dtype)
            del update
        if self.scaled:
            logits = tape.scale(logits)
        if self.softcap:
            logits = tape.scale(logits)
            logits = tape.unary_output(logits)
            logits = tape.scale(logits)
        return tape.cast(logits, FLOAT) if self.widened else logits


def cross_entropy(tape: Tape, logits: Value, narrow: bool = False) -> Value:
    """transformers' ForCausalLMLoss: logits in float32, their log-softmax (saved), and the mean negative
    log-likelihood. `narrow` is torch's own: the log-softmax in the logits' dtype, of which autocast makes a float32
    copy for the mean."""
    if not narrow:
        logits = tape.cast(logits, FLOAT)
    chances = tape.unary_output(logits)
    if tape.mode.autocast:
        chances = tape.cast(chances, FLOAT)
    return tape.operate(LOSS, FLOAT, (chances,), (chances,), _loss_gradient)


LOSS: Size = (1, 0, 0, 0, 0, 0)


def _loss_gradient(tape: Tape, grads: list[Value | None], node: object) -> list[Value | None]:
    return [tape.new(link[2], link[3]) for link in node.inputs]  # type: ignore[attr-defined]


def compiled_cross_entropy(tape: Tape, logits: Value, whole: bool) -> Value:
    """The same under torch.compile: one kernel that keeps the logits as they are and one figure a token, and another
    that makes their gradient, of all logits or chunk by chunk in their place. (torch 2.13.0, inductor)"""
    figures = tape.new(TOKENS, FLOAT)
    return tape.operate(LOSS, FLOAT, (logits,), (logits, figures), _loss_gradient if whole else _taken_over)


def chunked_cross_entropy(tape: Tape, logits: Value) -> Value:
    """The loss of one chunk of rows after another, in the logits' own precision.

    Every chunk's log-softmax is kept; backward each becomes the gradient of its chunk. (litgpt, chunks of 128 rows;
    torchtune makes 8 chunks, drops the logits and keeps a float32 log-softmax: as many bytes)
    """
    chances = tape.operate(logits.elements, logits.dtype, (logits,), (), _taken_over, save_output=True)
    return tape.operate(LOSS, FLOAT, (chances,), (chances,), _taken_over)


def _taken_over(tape: Tape, grads: list[Value | None], node: Node) -> list[Value | None]:
    """A gradient that takes the place of what was saved, chunk by chunk."""
    storage = node.saved[0]
    return [None if link is None else Value(link[2], link[3], storage) for link in node.inputs]


def fused_cross_entropy(tape: Tape, x: Value, head: Head) -> Value:
    """Liger's fused linear cross entropy: the forward pass runs over chunks of rows and makes the gradients of the
    hidden states and of the matrix at once; the logits of one chunk are there at a time (`Chunks`).
    """
    into = head.projected or head.width
    weight = tape.parameter(into * head.vocabulary)
    made = [tape.new(x.elements, x.dtype)] if x.node is not None else []
    if weight.node is not None:
        made.append(tape.new(weight.elements, weight.dtype))
    losses = tape.new(TOKENS, FLOAT)
    loss = tape.operate(LOSS, FLOAT, (x, weight), made, _made_before)
    del losses
    return loss


def _made_before(tape: Tape, grads: list[Value | None], node: Node) -> list[Value | None]:
    """Gradients that the forward pass made."""
    waiting = list(node.saved)
    return [None if link is None else Value(link[2], link[3], waiting.pop(0)) for link in node.inputs]


@dataclass(frozen=True, slots=True)
class Chunks:
    """What one chunk of rows takes while a chunked or fused loss runs over it.

    row    bytes of a row
    parts  chunks that all rows are divided into
    even   whether their size is rounded up to a power of two
    """

    row: int
    parts: int
    even: bool

    def bytes(self, tokens: int) -> int:
        """Bytes of one chunk of so many rows.

        >>> Chunks(row=10, parts=8, even=True).bytes(72)
        160
        """
        rows = ceil_div(tokens, self.parts)
        if self.even:
            rows = min(1 << (rows - 1).bit_length(), tokens)
        return rows * self.row


def chunks_of(loss: str, head: Head, dtype: str) -> Chunks | None:
    """The chunks of a loss: Liger's are as many as the vocabulary is times as wide as the hidden states, and hold
    logits and the gradient of the rows; others are eight, with two gradients of the logits each."""
    if loss == "fused":
        into = head.projected or head.width
        return Chunks((head.vocabulary + into) * WIDTH[dtype], ceil_div(head.vocabulary, into), True)
    if loss == "chunked":
        return Chunks(2 * head.vocabulary * WIDTH[dtype], 8, False)
    return None


__all__ = ["LOSS", "SEQUENCES", "TOKENS", "Embedding", "Head", "cross_entropy", "scaled"]

"""The two ends of a model: the embedding before the layers, the norm, head and loss after them."""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import FLOAT, SEQUENCES, TOKENS, Node, Size, Tape, Value, scaled
from ..tensors import Cut, Tensor
from .norms import Norm


@dataclass(frozen=True, slots=True)
class Embedding:
    """The table of tokens, and of positions where they are learned.

    width      of the table
    projected  width of the hidden states where a matrix follows the table (opt-350m), else 0
    positions  rows of a learned table of positions, 0 if there is none
    types      rows of a table of token types (BERT)
    norm       after the sum, where a family has one
    scaled     whether the rows are multiplied by a constant (Gemma, Granite)
    dropout    rate while training
    dropout_first  whether the variable that holds the rows is overwritten by their dropout (Phi)
    """

    vocabulary: int
    width: int
    name: str = "embed_tokens"
    positions: int = 0
    position_name: str = "embed_positions"
    types: int = 0
    norm: Norm | None = None
    projected: int = 0
    scaled: bool = False
    dropout: float = 0.0
    dropout_first: bool = False

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
            made.append(Tensor("project_in.weight", (self.projected, width), "embedding", "other", True))
        if self.norm is not None:
            made += self.norm.tensors()
        return tuple(made)

    def forward(self, tape: Tape) -> Value:
        """The hidden states that enter the first layer. `tape.held` gets what the model's own variables keep alive."""
        rows = tape.mode.queries
        x = tape.embed(rows, self.vocabulary, self.width)
        if self.scaled:
            x = tape.scale(x)
        if tape.asked:
            x.node = Node((), [x.storage], lambda tape, grads, node: [])
        positions = None
        if self.positions:
            wide = self.projected or self.width
            positions = tape.embed(tape.mode.query_positions, self.positions, wide)
            tape.held.append(positions)
        if self.projected:
            x = tape.linear(x, self.width, self.projected)
        if self.dropout_first:
            x = tape.dropout(x, self.dropout)
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

    def tensors(self) -> tuple[Tensor, ...]:
        """The norm's weights and the matrix, unless it is the embedding's."""
        made = list(self.norm.tensors()) if self.norm is not None else []
        into = self.projected or self.width
        if self.projected:
            made.append(Tensor("project_out.weight", (self.projected, self.width), "embedding", "other", True))
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
            x = tape.linear(x, self.width, self.projected)
        return x

    def logits(self, tape: Tape, x: Value, rows: Size) -> Value:
        """`rows` × vocabulary."""
        logits = tape.linear(x, self.projected or self.width, self.vocabulary, self.bias, "", rows)
        if self.scaled:
            logits = tape.scale(logits)
        if self.softcap:
            logits = tape.scale(logits)
            logits = tape.unary_output(logits)
            logits = tape.scale(logits)
        return tape.cast(logits, FLOAT) if self.widened else logits


def cross_entropy(tape: Tape, logits: Value) -> Value:
    """transformers' ForCausalLMLoss: logits in float32, their log-softmax (saved), and the mean negative
    log-likelihood."""
    logits = tape.cast(logits, FLOAT)
    chances = tape.unary_output(logits)
    return tape.operate(LOSS, FLOAT, (chances,), (chances,), _loss_gradient)


LOSS: Size = (1, 0, 0, 0, 0, 0)


def _loss_gradient(tape: Tape, grads: list[Value | None], node: object) -> list[Value | None]:
    return [tape.new(link[2], link[3]) for link in node.inputs]  # type: ignore[attr-defined]


__all__ = ["LOSS", "SEQUENCES", "TOKENS", "Embedding", "Head", "cross_entropy", "scaled"]

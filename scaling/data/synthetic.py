"""Sources of token ids whose entropy is known: a Markov chain of order k, a hidden Markov chain, and a
mixture of chains whose windows have a label.

Windows are independent, and each starts from the stationary distribution, so a window of L tokens has entropy
H(X_1..X_L) exactly, and no model's expected loss per token lies below H(X_1..X_L) / L. Window n of a stream
is a function of (source, stream, L, n): its uniforms are block n of a counter-based generator (Philox; Salmon
et al., "Parallel random numbers: as easy as 1, 2, 3", 2011), so any range of windows is made at once, in any
order.
"""

import functools
import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np

from scaling.data.names import Options, parse_options
from scaling.errors import UserError, nearest

_MAX_TABLE = 1 << 22  # probabilities of a table: 32 MB
_MASK_64 = (1 << 64) - 1


class Source(ABC):
    """A stationary source of token ids with exact probabilities. All entropies are in nats."""

    name: str  # with every option spelled out; equal names make equal windows
    num_token_ids: int

    @property
    @abstractmethod
    def entropy_rate(self) -> float:
        """h, the limit of H(X_1..X_L) / L, in nats."""

    @property
    def entropy_rate_se(self) -> float:
        """Standard error of `entropy_rate`; 0 if it is exact."""
        return 0.0

    @abstractmethod
    def entropy_per_token(self, context_length: int) -> float:
        """H(X_1..X_L) / L in nats, L = context_length."""

    def entropy_se(self, context_length: int) -> float:
        """Standard error of `entropy_per_token`; 0 if it is exact."""
        return 0.0

    @abstractmethod
    def windows(self, stream: tuple[object, ...], first: int, count: int, context_length: int) -> np.ndarray:
        """Windows first..first+count-1 of a stream: (count, context_length) int64."""

    @abstractmethod
    def conditionals(self, ids: np.ndarray) -> np.ndarray:
        """p(x_l = v | x_1..x_{l-1}) for windows (B, L): (B, L, V), as a perfect `ar` model predicts."""

    def log_prob(self, ids: np.ndarray) -> np.ndarray:
        """log p of whole windows (B, L), in nats: (B,)."""
        ids = self.checked(ids)
        chosen = np.take_along_axis(self.conditionals(ids), ids[:, :, None], axis=2)[:, :, 0]
        return np.asarray(np.log(chosen).sum(axis=1))

    def _require(self, holds: bool, sentence: str) -> None:
        if not holds:
            raise UserError(f"corpus {self.name!r}: {sentence}")

    def _check_weights(self, vocab: int, zipf: float, sharpness: float) -> None:
        self._require(vocab >= 2, f"vocab={vocab} should be 2 or more")
        # Beyond these a row's smallest probabilities are out of the range of accurate stationary weights.
        self._require(0 <= zipf <= 4, f"zipf={zipf} should be from 0 to 4")
        self._require(0 <= sharpness <= 4, f"sharpness={sharpness} should be from 0 to 4")

    def checked(self, ids: np.ndarray) -> np.ndarray:
        """`ids` as (B, L) int64; raises ValueError for another shape or ids the source does not have."""
        ids = np.asarray(ids)
        if ids.ndim != 2:
            raise ValueError(f"ids of shape {ids.shape} should be (windows, tokens)")
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < self.num_token_ids:
            raise ValueError(f"ids {ids.min()}..{ids.max()} should lie in 0..{self.num_token_ids - 1}")
        return ids.astype(np.int64)


def uniforms(key: tuple[object, ...], first: int, count: int, width: int) -> np.ndarray:
    """Rows first..first+count-1 of an endless table of uniforms in [0, 1) drawn by `key`: (count, width)."""
    blocks = -(-width // 4)  # Philox makes four numbers per count
    start = first * blocks
    digest = hashlib.sha256(repr(key).encode()).digest()
    generator = np.random.Philox(
        key=np.frombuffer(digest[:16], dtype="<u8"),
        counter=np.array([start & _MASK_64, start >> 64, 0, 0], dtype=np.uint64),
    )
    bits = generator.random_raw(count * blocks * 4).reshape(count, blocks * 4)[:, :width]
    return np.asarray((bits >> np.uint64(11)) * 2.0**-53)


def _zipf_rows(key: tuple[object, ...], rows: int, columns: int, zipf: float, sharpness: float) -> np.ndarray:
    """Rows of rank^-zipf times exp(sharpness x a standard normal), each summing to 1: (rows, columns)."""
    draws = uniforms(key, 0, rows, 2 * columns)
    radius = np.sqrt(-2 * np.log1p(-draws[:, :columns]))
    normals = radius * np.cos(2 * math.pi * draws[:, columns:])  # Box and Muller, 1958
    logits = sharpness * normals - zipf * np.log(np.arange(1, columns + 1))
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _row_entropies(table: np.ndarray) -> np.ndarray:
    positive = np.where(table > 0, table, 1.0)
    return np.asarray(-(table * np.log(positive)).sum(axis=-1))


class _Sampler:
    """Draws from the rows of a table, one uniform per draw: one binary search in all rows laid end to end."""

    def __init__(self, table: np.ndarray) -> None:
        rows, self._columns = table.shape
        cumulative = np.cumsum(table, axis=1)
        cumulative[:, -1] = 1.0
        self._edges = (cumulative + np.arange(rows)[:, None]).ravel()

    def draw(self, rows: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """A column for each of `rows`; `uniform` has the same shape."""
        columns = np.searchsorted(self._edges, rows + uniform, side="right") - rows * self._columns
        return np.asarray(
            np.minimum(columns, self._columns - 1)
        )  # row + uniform may round up to the next row


class MarkovSource(Source):
    """`markov?order=1&vocab=64&zipf=1.0&sharpness=1.5&seed=0`: each token depends on the `order` before it.

    Every context has its own distribution: Zipfian weights rank^-zipf, each times exp(sharpness x N(0, 1)),
    so frequencies stay about Zipfian. `sharpness=0` or `order=0` make tokens independent. Entropies are
    exact.
    """

    def __init__(self, order: int, vocab: int, zipf: float, sharpness: float, seed: int) -> None:
        settings = f"order={order}&vocab={vocab}&zipf={zipf}&sharpness={sharpness}&seed={seed}"
        self.name = f"synthetic:markov?{settings}"
        self._require(order >= 0, f"order={order} should be 0 or more")
        self._check_weights(vocab, zipf, sharpness)
        lower = f"order={order} should be lower: vocab^(order+1) is at most {_MAX_TABLE}"
        self._require(vocab ** (order + 1) <= _MAX_TABLE, lower)
        self.order, self.num_token_ids = order, vocab
        table = _zipf_rows((self.name, "table"), vocab**order, vocab, zipf, sharpness)
        weights = _stationary_contexts(table, order)
        # tables for 0, 1, ..., order known tokens, and the distribution of the contexts of each
        self._tables, context_weights = [table], [weights]
        for length in range(order - 1, -1, -1):
            # the first length + 1 tokens of a stationary window
            joint = context_weights[0].reshape(vocab**length, vocab)
            marginal = joint.sum(axis=1)
            self._tables.insert(0, joint / marginal[:, None])
            context_weights.insert(0, marginal)
        self._steps = [
            float(weight @ _row_entropies(rows))
            for weight, rows in zip(context_weights, self._tables, strict=True)
        ]

    @property
    def entropy_rate(self) -> float:
        """h = sum over contexts of their stationary weight times the entropy of their row; exact."""
        return self._steps[-1]

    def entropy_per_token(self, context_length: int) -> float:
        """H(X_1..X_L) / L = (sum over the first k tokens of H(X_l | X_<l) + (L - k) h) / L; exact."""
        early = self._steps[: min(self.order, context_length)]
        return (math.fsum(early) + (context_length - len(early)) * self.entropy_rate) / context_length

    @functools.cached_property
    def _samplers(self) -> list[_Sampler]:
        return [_Sampler(table) for table in self._tables]

    def windows(self, stream: tuple[object, ...], first: int, count: int, context_length: int) -> np.ndarray:
        draws = uniforms((self.name, *stream, context_length), first, count, context_length)
        ids = np.empty((count, context_length), dtype=np.int64)
        context = np.zeros(count, dtype=np.int64)
        for step in range(context_length):
            length = min(step, self.order)
            ids[:, step] = self._samplers[length].draw(context, draws[:, step])
            context = self._next_context(context, ids[:, step])
        return ids

    def _next_context(self, context: np.ndarray, token: np.ndarray) -> np.ndarray:
        return np.asarray((context * self.num_token_ids + token) % self.num_token_ids**self.order)

    def conditionals(self, ids: np.ndarray) -> np.ndarray:
        ids = self.checked(ids)
        rows = np.empty((*ids.shape, self.num_token_ids))
        context = np.zeros(len(ids), dtype=np.int64)
        for step in range(ids.shape[1]):
            rows[:, step] = self._tables[min(step, self.order)][context]
            context = self._next_context(context, ids[:, step])
        return rows


def _stationary_contexts(table: np.ndarray, order: int) -> np.ndarray:
    """Stationary distribution of the last `order` tokens: (vocab^order,), by power iteration.

    Every entry of the table is positive, so the iteration converges geometrically.
    """
    vocab = table.shape[1]
    if order == 0:
        return np.ones(1)
    moves = table.reshape(vocab, vocab ** (order - 1), vocab)  # oldest token, those between, next token
    weights = np.full((vocab, vocab ** (order - 1)), 1.0 / vocab**order)
    for _ in range(10_000):
        following = np.einsum("or,orn->rn", weights, moves).reshape(weights.shape)
        following /= following.sum()
        change = float(np.abs(following - weights).sum())
        weights = following
        if change < 1e-14:
            return weights.ravel()
    raise AssertionError(f"power iteration still moved by {change} after 10,000 steps")


class HiddenMarkovSource(Source):
    """`hmm?states=8&vocab=64&zipf=1.0&sharpness=1.5&stay=0.8&seed=0`: tokens drawn by a hidden chain.

    A state is kept with probability `stay`, else redrawn from its own distribution; each state has its own
    Zipfian distribution of tokens. A token depends on all tokens before it, so unlike with a Markov source a
    longer context always helps. The entropy rate has no closed form: it is the mean entropy of exact
    predictions (forward algorithm) over simulated windows, with its standard error.
    """

    # 1,024 windows of 512 tokens, the first half of each left out of the rate: the standard error is 0.03% of
    # it by default and 0.2% at stay=0.95; a state of 256 tokens ago matters far less (stay^256 < 0.6%).
    _WINDOWS, _LENGTH, _BURN_IN = 1024, 512, 256
    _MAX_STAY = 0.98

    def __init__(
        self, states: int, vocab: int, zipf: float, sharpness: float, stay: float, seed: int
    ) -> None:
        settings = f"states={states}&vocab={vocab}&zipf={zipf}&sharpness={sharpness}&stay={stay}&seed={seed}"
        self.name = f"synthetic:hmm?{settings}"
        self._require(states >= 1, f"states={states} should be 1 or more")
        self._check_weights(vocab, zipf, sharpness)
        self._require(0 <= stay <= self._MAX_STAY, f"stay={stay} should be from 0 to {self._MAX_STAY}")
        self._require(max(states, vocab) * states <= _MAX_TABLE, f"states={states} should be fewer")
        self.num_states, self.num_token_ids = states, vocab
        moves = _zipf_rows((self.name, "moves"), states, states, 0.0, sharpness)
        self.transitions = stay * np.eye(states) + (1 - stay) * moves  # (S, S)
        self.emissions = _zipf_rows((self.name, "emissions"), states, vocab, zipf, sharpness)  # (S, V)
        self.initial = _stationary_contexts(self.transitions, 1)  # (S,)

    @functools.cached_property
    def _entropies(self) -> np.ndarray:
        """Entropy of the prediction of token l in each simulated window: (windows, length)."""
        ids = self.windows(("entropy",), 0, self._WINDOWS, self._LENGTH)
        return np.stack([_row_entropies(step) for step in self._predictions(ids)], axis=1)

    @property
    def entropy_rate(self) -> float:
        """Mean of H(X_l | x_1..x_{l-1}) past the burn-in: above the rate by less than its standard error."""
        return float(self._entropies[:, self._BURN_IN :].mean())

    @property
    def entropy_rate_se(self) -> float:
        """Standard error of `entropy_rate` over windows."""
        per_window = self._entropies[:, self._BURN_IN :].mean(axis=1)
        return float(per_window.std(ddof=1) / math.sqrt(self._WINDOWS))

    def entropy_per_token(self, context_length: int) -> float:
        return float(self._block_entropies(context_length).mean()) / context_length

    def entropy_se(self, context_length: int) -> float:
        per_window = self._block_entropies(context_length)
        return float(per_window.std(ddof=1) / math.sqrt(self._WINDOWS)) / context_length

    def _block_entropies(self, context_length: int) -> np.ndarray:
        """One unbiased draw of H(X_1..X_L) per simulated window; beyond the simulated length, by the rate."""
        simulated = self._entropies[:, :context_length].sum(axis=1)
        beyond = max(0, context_length - self._LENGTH)
        return np.asarray(simulated + beyond * self._entropies[:, self._BURN_IN :].mean(axis=1))

    @functools.cached_property
    def _samplers(self) -> tuple[_Sampler, _Sampler, _Sampler]:
        return _Sampler(self.initial[None]), _Sampler(self.transitions), _Sampler(self.emissions)

    def windows(self, stream: tuple[object, ...], first: int, count: int, context_length: int) -> np.ndarray:
        draws = uniforms((self.name, *stream, context_length), first, count, 2 * context_length)
        initial, transitions, emissions = self._samplers
        states = np.empty((count, context_length), dtype=np.int64)
        state = initial.draw(np.zeros(count, dtype=np.int64), draws[:, 0])
        for step in range(context_length):
            states[:, step] = state
            if step + 1 < context_length:
                state = transitions.draw(state, draws[:, step + 1])
        return emissions.draw(states, draws[:, context_length:])

    def conditionals(self, ids: np.ndarray) -> np.ndarray:
        ids = self.checked(ids)
        return np.stack(list(self._predictions(ids)), axis=1)

    def _predictions(self, ids: np.ndarray) -> Iterator[np.ndarray]:
        """p(x_l | x_1..x_{l-1}), (B, V) for each l, by the scaled forward algorithm (Rabiner, 1989, V.A)."""
        belief = np.broadcast_to(self.initial, (len(ids), self.num_states))  # p(state_l | x_1..x_{l-1})
        for step in range(ids.shape[1]):
            yield belief @ self.emissions
            evidence = belief * self.emissions[:, ids[:, step]].T
            belief = evidence / evidence.sum(axis=1, keepdims=True) @ self.transitions


class TopicSource(Source):
    """`topics?topics=4&vocab=32&zipf=1.0&sharpness=1.5&seed=0`: each window is drawn from one of several
    Markov chains of order 1, all equally often. Which one is its label.

    A model given the label can reach a lower loss than one of text alone, by H(label) / L at most. No closed
    form of the entropy: the mean of -log p over simulated windows, with its standard error.
    """

    _WINDOWS = 4096

    def __init__(self, topics: int, vocab: int, zipf: float, sharpness: float, seed: int) -> None:
        self.name = (
            f"synthetic:topics?topics={topics}&vocab={vocab}&zipf={zipf}&sharpness={sharpness}&seed={seed}"
        )
        self._require(topics >= 2, f"topics={topics} should be 2 or more")
        self._check_weights(vocab, zipf, sharpness)
        self._require(
            topics * vocab * vocab <= _MAX_TABLE, f"topics={topics} or vocab={vocab} should be less"
        )
        self.num_topics, self.num_token_ids = topics, vocab
        rows = _zipf_rows((self.name, "moves"), topics * vocab, vocab, zipf, sharpness)
        self.tables = rows.reshape(topics, vocab, vocab)
        self.firsts = np.stack([_stationary_contexts(table, 1) for table in self.tables])

    @property
    def entropy_rate(self) -> float:
        """Mean entropy rate of the chains: a long window gives its topic away."""
        rates = [first @ _row_entropies(table) for first, table in zip(self.firsts, self.tables, strict=True)]
        return float(np.mean(rates))

    def entropy_per_token(self, context_length: int) -> float:
        return float(self._surprises(context_length).mean()) / context_length

    def entropy_se(self, context_length: int) -> float:
        surprises = self._surprises(context_length)
        return float(surprises.std(ddof=1)) / math.sqrt(len(surprises)) / context_length

    def _surprises(self, context_length: int) -> np.ndarray:
        return -self.log_prob(self.windows(("entropy",), 0, self._WINDOWS, context_length))

    def topics(self, stream: tuple[object, ...], first: int, count: int, context_length: int) -> np.ndarray:
        """The topic of each window of a stream: (count,) int64."""
        draws = uniforms((self.name, *stream, context_length), first, count, context_length + 1)
        return (draws[:, -1] * self.num_topics).astype(np.int64)

    def windows(self, stream: tuple[object, ...], first: int, count: int, context_length: int) -> np.ndarray:
        draws = uniforms((self.name, *stream, context_length), first, count, context_length + 1)
        topic = self.topics(stream, first, count, context_length)
        begin, move = _Sampler(self.firsts), _Sampler(self.tables.reshape(-1, self.num_token_ids))
        ids = np.empty((count, context_length), dtype=np.int64)
        ids[:, 0] = begin.draw(topic, draws[:, 0])
        for step in range(1, context_length):
            ids[:, step] = move.draw(topic * self.num_token_ids + ids[:, step - 1], draws[:, step])
        return ids

    def topic_log_probs(self, ids: np.ndarray) -> np.ndarray:
        """log p(ids | topic) of windows (B, L), (B, topics)."""
        ids = self.checked(ids)
        steps = np.log(self.tables)[:, ids[:, :-1], ids[:, 1:]].sum(axis=-1)
        return np.asarray((np.log(self.firsts)[:, ids[:, 0]] + steps).T)

    def conditionals(self, ids: np.ndarray) -> np.ndarray:
        ids = self.checked(ids)
        belief = np.full((len(ids), self.num_topics), 1 / self.num_topics)
        rows = np.empty((*ids.shape, self.num_token_ids))
        for step in range(ids.shape[1]):
            table = self.firsts[None] if step == 0 else self.tables[:, ids[:, step - 1]].transpose(1, 0, 2)
            rows[:, step] = np.einsum(
                "bt,btv->bv", belief, np.broadcast_to(table, (len(ids), *table.shape[1:]))
            )
            belief = belief * np.take_along_axis(table, ids[:, step, None, None], axis=2)[..., 0]
            belief /= belief.sum(axis=1, keepdims=True)
        return rows


_TOKENS: Options = {"vocab": 64, "zipf": 1.0, "sharpness": 1.5, "seed": 0}
SOURCES: dict[str, tuple[type[Source], Options]] = {
    "markov": (MarkovSource, {"order": 1, **_TOKENS}),
    "hmm": (HiddenMarkovSource, {"states": 8, "stay": 0.8, **_TOKENS}),
    "topics": (TopicSource, {"topics": 4, **_TOKENS}),
}


def parse_source(name: str) -> Source:
    """The source of a name such as `synthetic:markov?order=2&vocab=32`; options left out get their defaults.

    Raises UserError for an unknown process or option, or a value out of range.
    """
    kind, _, options = name.removeprefix("synthetic:").partition("?")
    if kind not in SOURCES:
        sources = ", ".join(f"synthetic:{source}" for source in SOURCES)
        raise UserError(f"unknown corpus {name!r}{nearest(kind, SOURCES)} (known: {sources})")
    make, defaults = SOURCES[kind]
    return make(**parse_options(options, f"corpus {name!r}", defaults))

"""In which order samples are seen (pure).

The order of an epoch is a permutation that is *computed*, not stored: f(seed, epoch). One global cursor, the number of
samples that all ranks together have consumed, says where training stands, so that a resumed run jumps there at once,
and a run on another number of ranks continues with exactly the next samples.
"""

from __future__ import annotations

from dataclasses import dataclass

_MASK64 = (1 << 64) - 1
_ROUNDS = 6


@dataclass(frozen=True, slots=True)
class Permutation:
    """A fixed random-looking order of ``0 .. size - 1``, for one epoch of one seed.

    A Feistel network permutes the next power of four; values that fall outside are sent through again until they fall
    inside ("cycle walking", fewer than four times on average), which leaves a permutation of the range itself.
    """

    size: int
    seed: int
    epoch: int

    def __call__(self, position: int) -> int:
        """Which sample stands at a position.

        Raises:
            IndexError: the position is outside the range.
        """
        if not 0 <= position < self.size:
            raise IndexError(f"position {position} is outside 0..{self.size - 1}")
        half_bits = max(1, ((self.size - 1).bit_length() + 1) // 2)
        key = _mix(_mix(self.seed) ^ self.epoch)
        value = self._feistel(position, half_bits, key)
        while value >= self.size:
            value = self._feistel(value, half_bits, key)
        return value

    @staticmethod
    def _feistel(value: int, half_bits: int, key: int) -> int:
        mask = (1 << half_bits) - 1
        left, right = value >> half_bits, value & mask
        for turn in range(_ROUNDS):
            left, right = right, left ^ (_mix(key + (turn << 56) ^ right) & mask)
        return (left << half_bits) | right


@dataclass(frozen=True, slots=True)
class SampleOrder:
    """Which sample is the k-th that training consumes, over all epochs.

    Attributes:
        size: samples in the data set.
        seed: of the run.
    """

    size: int
    seed: int

    def sample(self, cursor: int) -> int:
        """The sample that is consumed as number ``cursor``, counted from 0."""
        epoch, position = divmod(cursor, self.size)
        return Permutation(self.size, self.seed, epoch)(position)

    def share(self, cursor: int, global_batch_size: int, rank: int, world_size: int) -> list[int]:
        """The samples of one rank in the global batch that starts at ``cursor``.

        Ranks take turns; the union over all ranks is the same whatever their number.
        """
        return [self.sample(cursor + offset) for offset in range(rank, global_batch_size, world_size)]


def _mix(value: int) -> int:
    """SplitMix64's finalizer: every input bit reaches every output bit."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK64
    return value ^ (value >> 31)

"""What every record is."""

from dataclasses import dataclass
from typing import ClassVar

Case = tuple[str | int | float | bool | None, ...]


@dataclass(frozen=True)
class Record:
    """One line of `records.jsonl`; every field is a JSON value.

    Attributes:
        kind: name of the kind, as in the file.
        packed: fields that the file holds compressed, as `bench.records.store` says: long lists of ids and
            ranks, not timings.
        named_by: fields that distinguish a record from others of its kind; None if it is not a measurement.
        case_kind: first element of its case; None: `kind`.
    """

    kind: ClassVar[str]
    named_by: ClassVar[tuple[str, ...] | None] = None
    case_kind: ClassVar[str | None] = None
    packed: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def case_of(cls, *names: str | float | None) -> Case:
        """The case of a record with these values of the fields in `named_by`."""
        return (cls.case_kind or cls.kind, *names)

    @property
    def identity(self) -> Case | None:
        """The case of the record; None if it is not a measurement."""
        if self.named_by is None:
            return None
        return self.case_of(*(getattr(self, name) for name in self.named_by))

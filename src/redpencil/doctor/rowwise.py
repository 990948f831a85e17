"""What a check that looks at single rows must be able to do."""

from collections.abc import Iterable
from typing import Protocol

from redpencil.data.reading import ReadRow
from redpencil.doctor.findings import Finding


class RowCheck(Protocol):
    """Looks at every row that is an object, usable or not, in file order, in bounded memory.

    Of labelled rows it sees each by itself, before they are joined by prompt.
    """

    def see_row(self, read: ReadRow) -> None: ...

    def findings(self, total: int) -> Iterable[Finding]:
        """What was found, once all of `total` rows were seen."""
        ...

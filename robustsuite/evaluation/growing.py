"""Games on growing numbers of samples: batches that are judged whole, and joined as if judged at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from robustsuite.core.errors import RequestError
from robustsuite.core.samples import spread
from robustsuite.core.streams import Streams
from robustsuite.core.suspicions import Suspicion
from robustsuite.evaluation import record_files
from robustsuite.evaluation.blank_records import blank_records
from robustsuite.evaluation.joining import joined
from robustsuite.evaluation.judge import judge
from robustsuite.evaluation.records import Record
from robustsuite.evaluation.resolve import Game
from robustsuite.scenarios.victim import CleanAnswers, Victim


class Growing:
    """What is judged so far of a victim's samples; none is judged twice.

    The order of the samples is drawn by the seed, each class in its share, and does not depend on what is seen.

    Args:
        victim: Who is attacked, with all samples that there are.
        games: The clean evaluation, then games whose samples are judged each by itself.
        seed: Keys every random draw, the order of the samples too.
        folder: Where per-sample files go; also the records of each batch, where they are kept.
        keep: Whether they are, so that the same games on the same samples of the same victim go on from there.
        name: What tables call the model.
        data: What is known of the data set beside the samples.
        note: What each record should say besides.
    """

    def __init__(
        self,
        victim: Victim,
        games: Sequence[Game],
        seed: int,
        folder: Path,
        *,
        keep: bool = False,
        name: str = "model",
        data: Mapping[str, Any] | None = None,
        note: str = "",
    ) -> None:
        self._victim, self._games, self._seed, self._folder = victim, games, seed, folder
        self._told = (name, seed, data, note)
        self._order = spread(victim.test.y, Streams(seed).child("samples").generator())
        self._keep = keep
        self._kept = {record.key: record for record in record_files.read(self._path)} if keep else {}
        self._parts: list[list[Record]] = [[] for _ in games[1:]]
        self._clean: list[CleanAnswers] = []
        self.n = 0

    @property
    def given(self) -> int:
        """How many samples there are."""
        return len(self._victim.test)

    @property
    def failed(self) -> bool:
        """Whether every attack raised, so that more samples would change nothing."""
        return all(parts and parts[-1].status == "error" for parts in self._parts)

    def blanks(self) -> list[Record]:
        """Records of all samples that there are, before any is judged."""
        return blank_records(self._games, self._victim, *self._told)

    @property
    def _path(self) -> Path:
        return self._folder / "records.jsonl"

    def take_to(self, n: int, *, hurried: bool = False) -> None:
        """Judge further samples, so that there are `n`; a batch that something ends has no part in what is judged.

        Args:
            n: More than there are, at most `given`.
            hurried: Whether a batch counts whose sanity checks and follow-up attacks found no time, as inconclusive.
        """
        batch = self._of(self.n, n)
        clean = batch.clean  # every answer is looked at before the attacks
        failed = [bool(parts) and parts[-1].status == "error" for parts in self._parts]
        played = [
            None if lost else self._judged(blank, game, batch, hurried)
            for blank, game, lost in zip(self._blanks(batch), self._games[1:], failed, strict=True)
        ]
        for parts, record in zip(self._parts, played, strict=True):
            parts.extend([record] if record is not None else [])
        self._clean.append(clean)
        self.n = n

    def recall(self, n: int) -> bool:
        """Take in these further samples as they were judged before, if all of their records are at hand."""
        if n > self.given or not all(self._known(blank) for blank in self._blanks(self._of(self.n, n))):
            return False
        self.take_to(n)
        return True

    def _of(self, start: int, stop: int) -> Victim:
        return replace(self._victim, test=self._victim.test.take(self._order[start:stop].sort().values))

    def _blanks(self, victim: Victim) -> list[Record]:
        return blank_records(self._games, victim, *self._told)[1:]

    def _judged(self, blank: Record, game: Game, batch: Victim, hurried: bool) -> Record:
        found = self._known(blank)
        if found is not None:
            return found
        record = judge(blank, game, batch, self._folder, hurried=hurried)
        if self._keep and record.measured and Suspicion.UNEXAMINED not in record.flags:
            record_files.append(self._path, record)
        return record

    def _known(self, blank: Record) -> Record | None:
        """The record of this batch and game, where it was kept and its per-sample file is whole."""
        found = self._kept.get(blank.key)
        try:
            return found if found is not None and record_files.load_samples(self._folder, found) else None
        except RequestError:
            return None

    def attacked(self) -> list[Record]:
        """A record of each game but the clean one, over all samples so far, of which there is at least one."""
        blanks, classes = self._blanks(self.seen()), self._victim.test.classes
        return [joined(blank, parts, self._folder, classes) for blank, parts in zip(blanks, self._parts, strict=True)]

    def clean(self) -> Record:
        """The record of the clean evaluation, over the same samples."""
        seen = self.seen()
        return judge(blank_records(self._games, seen, *self._told)[0], self._games[0], seen, self._folder)

    def seen(self) -> Victim:
        """The model with all samples so far and its answers to them."""
        rows = [self._order[start:stop] for start, stop in self._spans()]
        seen = replace(self._victim, test=self._victim.test.take(torch.cat([part.sort().values for part in rows])))
        # What was answered is known: asking again would cost a pass, and a model that draws could answer otherwise.
        parts = self._clean
        vars(seen)["clean"] = CleanAnswers(
            torch.cat([part.prediction for part in parts]),
            torch.cat([part.rejected for part in parts]),
            torch.cat([part.confidence for part in parts]),
            all(part.deterministic for part in parts),
        )
        return seen

    def _spans(self) -> list[tuple[int, int]]:
        stops = torch.tensor([0, *(len(part.prediction) for part in self._clean)]).cumsum(0).tolist()
        return list(pairwise(stops))

"""What a person must see to: shown for as long as it holds, and said in the log once a day."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence

log = logging.getLogger(__name__)

REPEAT_SECONDS = 86400.0
"""Between two log lines of one alarm."""


class Alarms:
    """The alarms of one agent. Who watches over something says what is wrong with it; nothing ends the alarm."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._by_source: dict[str, dict[str, str]] = {}
        self._said: dict[tuple[str, str], float] = {}

    def report(self, source: str, sentences: Mapping[str, str]) -> None:
        """Say what is wrong now, of all that `source` watches: a sentence for each thing, by a name that stays."""
        for thing in self._by_source.get(source, {}).keys() - sentences.keys():
            log.info("no longer: %s", self._by_source[source][thing])
            self._said.pop((source, thing), None)
        self._by_source[source] = dict(sentences)
        for thing, sentence in sentences.items():
            last = self._said.get((source, thing))
            if last is None or self._clock() - last >= REPEAT_SECONDS:
                self._said[source, thing] = self._clock()
                log.error("%s", sentence)

    def current(self) -> Sequence[str]:
        """Return the sentences that hold."""
        return [sentence for sentences in self._by_source.values() for sentence in sentences.values()]

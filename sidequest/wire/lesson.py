"""APP and ENGINE PROCESS. Modules with jobs that an app has imported late, and where to find them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from sidequest.wire.frames import BrokenFrame, read_object


class Lesson(NamedTuple):
    """What workers need to import modules that nobody has named when their engine started."""

    modules: Sequence[str]
    path: Sequence[str]
    """The `sys.path` of the process that has imported them."""

    def to_bytes(self) -> bytes:
        return json.dumps(self._asdict()).encode()

    @staticmethod
    def from_bytes(text: bytes) -> Lesson:
        """Raises BrokenFrame."""
        content = read_object(text)
        lesson = Lesson(content.get("modules", ()), content.get("path", ()))
        for words in lesson:
            if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                raise BrokenFrame(f"no lesson: {text[:60]!r}")
        return lesson

"""Write expected.json: what the shipped models say of each clip. Run it after a model is replaced, and read the diff.

python samples/make_expected.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import framecls

SAMPLES = Path(__file__).parent


def main() -> None:
    """Tag and identify every clip of truth.json."""
    sound, language = framecls.load("sound", device="cpu"), framecls.load("language", device="cpu")
    lines = []
    for name in sorted(json.loads((SAMPLES / "truth.json").read_text(encoding="utf-8"))):
        tagged, identified = sound.tag(SAMPLES / name), language.identify(SAMPLES / name)
        segments = [{"start": s.start, "end": s.end, "label": s.label} for s in tagged.segments]
        said: dict[str, Any] = {"segments": segments, "language": identified.label}
        if identified.score is not None:
            said["score"] = round(identified.score, 2)
        else:
            said["reason"] = identified.reason
        lines.append(f" {json.dumps(name)}: {json.dumps(said)}")
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    (SAMPLES / "expected.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""The run directory: where everything of a run lies. Its layout is documented in docs/reference/run-directory.md."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hilum.errors import RunError
from hilum.federation.audit import AUDIT_LOG
from hilum.training.state import append, write_atomically


@dataclass(frozen=True)
class ModelKey:
    """One trained model: its seed, arm and name (the site for 'local', else the arm's own name)."""

    seed: int
    arm: str
    model: str

    @property
    def path(self) -> Path:
        """Relative folder of everything of this model."""
        return Path(f"seed_{self.seed}") / self.arm / self.model


@dataclass(frozen=True)
class RunDirectory:
    """Paths of a run, and JSON that is written whole or not at all."""

    root: Path

    @property
    def study(self) -> Path:
        """The resolved study."""
        return self.root / "study.yaml"

    @property
    def metrics_log(self) -> Path:
        """One JSON line a round."""
        return self.root / "metrics.jsonl"

    @property
    def audit_log(self) -> Path:
        """One JSON line for every reply, chained."""
        return self.root / AUDIT_LOG

    def rounds(self, key: ModelKey) -> Path:
        """Checkpoints of a model's rounds."""
        return self.root / "rounds" / key.path

    def model(self, key: ModelKey) -> Path:
        """Final weights of a model."""
        return self.root / "models" / key.path

    def predictions(self, key: ModelKey, site: str) -> Path:
        """Probabilities of a model on the test patients of a site."""
        return self.root / "predictions" / key.path / f"{site}.csv"

    def maps(self, key: ModelKey, site: str) -> Path:
        """Maps of a model on test images of a site."""
        return self.root / "maps" / key.path / f"{site}.npz"

    def shuffled(self, key: ModelKey, site: str) -> Path:
        """Maps of the model with shuffled weights, where test images have boxes."""
        return self.root / "shuffled" / key.path / f"{site}.npz"

    def erased(self, key: ModelKey, site: str) -> Path:
        """Log-odds of a model on test films of which a part was erased."""
        return self.root / "erased" / key.path / f"{site}.csv"

    @property
    def validation(self) -> RunDirectory:
        """What is known of validation patients: labels, boxes, predictions and maps, laid out as those of test."""
        return RunDirectory(self.root / "validation")

    def table(self, kind: str, site: str) -> Path:
        """A table of a site: 'splits', 'labels' or 'boxes'."""
        return self.root / kind / f"{site}.csv"

    def remove_unfinished(self) -> None:
        """Remove the temporary files that a killed run left behind."""
        for path in list(self.root.rglob(".*.tmp")):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def write_json(self, name: str, content: Any) -> None:
        """Write JSON; figures that do not exist become null."""
        text = json.dumps(_nullify(content), indent=1, ensure_ascii=False)
        write_atomically(self.root / name, text.encode())

    def read_json(self, name: str) -> Any:
        """Read JSON of the run; raises ``RunError``."""
        path = self.root / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise RunError(
                f"Expected {name} in {self.root}; there is none. Is it a run directory of 'hilum study'?"
            ) from None
        except ValueError as error:
            raise RunError(f"Expected JSON in {path}; found: {error}.") from None

    def roles(self) -> dict[str, str]:
        """Return site → 'training' or 'outside', in the order of the study; raises ``RunError``."""
        try:
            roles = {str(entry["name"]): str(entry["role"]) for entry in self.read_json("sites.json")}
            if not roles:
                raise KeyError("name")
            return roles
        except (KeyError, TypeError) as error:
            raise RunError(
                f"Expected the label counts of every site in {self.root / 'sites.json'}; the file is damaged "
                f"({error!r}). Run the study again with --resume: it writes the file anew."
            ) from None

    def fact(self, *keys: str) -> Any:
        """Return a value of run.json; raises ``RunError`` that names the key where there is none."""
        value = self.read_json("run.json")
        for k, key in enumerate(keys):
            if not isinstance(value, dict) or value.get(key) is None:
                raise RunError(
                    f"Expected the key '{'.'.join(keys[: k + 1])}' in {self.root / 'run.json'}; found none. "
                    "The file is damaged: restore it, or run the study again into another --out."
                )
            value = value[key]
        return value

    def log_round(self, key: ModelKey, record: dict[str, Any]) -> None:
        """Add one line to the log of rounds, whole or not at all; raises ``RunError`` when the disk is full."""
        line = json.dumps(_nullify({**asdict(key), **record}), ensure_ascii=False)
        self.root.mkdir(parents=True, exist_ok=True)
        append(self.metrics_log, f"{line}\n".encode())

    def forget_rounds(self, key: ModelKey, after: int) -> None:
        """Remove from the log what a stopped run wrote of a model's rounds beyond its last checkpoint."""
        if not self.metrics_log.is_file():
            return
        log = self.metrics_log.read_bytes()
        kept = b"".join(line + b"\n" for line in log.splitlines() if not _is_beyond(line, key, after))
        if kept != log:
            write_atomically(self.metrics_log, kept)


def now() -> str:
    """Return the time as a run tells it: ISO 8601, to the second, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _is_beyond(line: bytes, key: ModelKey, after: int) -> bool:
    """Tell whether a line is of a later round of a model, or was only half written."""
    try:
        entry = json.loads(line)
        same = all(entry[name] == value for name, value in asdict(key).items())
        return bool(same and entry["round"] > after)
    except (ValueError, KeyError, TypeError):
        return True


def _nullify(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _nullify(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_nullify(v) for v in value]
    return value

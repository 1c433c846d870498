"""Configuration: do the model's files fit together, and does the program under test use the model as it was trained?"""

from clearline.app import model_folder
from clearline.checkpoint.inspection import inspect
from clearline.checkpoint.setups import named_setup
from clearline.config.audit import Finding as Row
from clearline.config.audit import audit
from clearline.lab.doctor.alignment import DELAY_REMEDY
from clearline.lab.doctor.evidence import Evidence
from clearline.lab.doctor.finding import CERTAIN, LIKELY, Chart, Finding, Kind

_KIND: Kind = "wrong configuration"
# What a difference in these parameters is called; they garble audio and show in no tensor's shape.
_NAMES = {
    "acoustic delay (frames)": "acoustic-delay",
    "delays of all streams": "acoustic-delay",
    "attention heads": "wrong-heads",
    "depformer attention heads": "wrong-heads",
    "positions": "rope-layout",
    "depformer positions": "rope-layout",
    "RoPE period": "rope-period",
}


def look_at_files(evidence: Evidence, chart: Chart) -> None:
    """The folder by itself: shapes against config.json, codec and tokenizer against the language model."""
    folder = model_folder(evidence.folder)
    if not folder.is_dir():
        return
    found = inspect(folder)
    if not found.contradictions:
        chart.passed("model files", "every tensor has the shape the configuration asks for; codec and tokenizer fit")
        return
    listed = "; ".join(found.contradictions[:3])
    more = f" and {len(found.contradictions) - 3} more" if len(found.contradictions) > 3 else ""
    dimensions = [line for line in found.contradictions if ": the weights have " in line]
    name = "config-of-another-model" if dimensions else "files-contradict"
    chart.found(
        Finding(
            name,
            _KIND,
            "model files",
            "the configuration is not that of these weights" if dimensions else "the model's files contradict each other",
            f"{listed}{more}",
            "use the config.json published beside the weights; `clearline inspect` lists every tensor",
            CERTAIN,
        )
    )


def look_at_setup(evidence: Evidence, chart: Chart) -> None:
    """The configuration the program under test uses against the checkpoint's."""
    if evidence.setup is None:
        return
    folder = str(model_folder(evidence.folder))
    own = named_setup(folder)
    # "@PROGRAM": these weights, as that program would use them.
    other = named_setup(f"{folder}{evidence.setup}" if evidence.setup.startswith("@") else evidence.setup)
    rows = audit([own, other])
    wrong = [row for row in rows if row.severity == "another model"]
    if wrong:
        chart.found(
            Finding(
                "config-of-another-model",
                _KIND,
                "configuration",
                "the program is configured for another model than these weights",
                _listed(wrong),
                "use the config.json published beside the weights: shapes tell which model a configuration is of",
                CERTAIN,
            )
        )
        return
    for row in (row for row in rows if row.severity == "garbles audio"):
        name = _NAMES.get(row.parameter, "configuration-garbles")
        remedy = DELAY_REMEDY if name == "acoustic-delay" else f"set it to {row.values[0]}, as the checkpoint has it"
        chart.found(
            Finding(
                name,
                _KIND,
                "configuration",
                f"the program uses {row.values[1]} as {row.parameter}, the weights were trained with {row.values[0]}",
                f"`clearline audit`: {row.why}",
                remedy,
                LIKELY,
            )
        )
    if not any(row.severity == "garbles audio" for row in rows):
        chart.passed("configuration", "nothing in the program's configuration garbles audio with these weights")


def _listed(rows: list[Row]) -> str:
    parts = [f"{row.parameter}: the weights have {row.values[0]}, it says {row.values[1]}" for row in rows[:3]]
    return "; ".join(parts) + (f" and {len(rows) - 3} more" if len(rows) > 3 else "")

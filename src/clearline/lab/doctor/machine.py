"""Machine: does the backend compute right numbers here, operation by operation?"""

from clearline.backends.selftest import self_test
from clearline.lab.doctor.finding import CERTAIN, Chart, Finding
from clearline.ops import Backend


def look_at_machine(backend: Backend, chart: Chart) -> None:
    """Every operation on `backend` against the float64 reference."""
    found = self_test(backend)
    if not found.fault:
        chart.passed("machine", f"{len(found.measured)} operations of {backend.name} give what the float64 reference gives")
        return
    wrong = [measured for measured in found.measured if not measured.passed]
    chart.found(
        Finding(
            "broken-operation",
            "broken machine",
            "machine",
            f"the backend {backend.name} computes wrongly on this machine: {found.fault}",
            f"{len(wrong)} of {len(found.measured)} operations differ from the float64 reference by more than rounding",
            "use another backend (--backend; `clearline backends` lists them), and report this with `clearline bugreport`",
            CERTAIN,
        )
    )

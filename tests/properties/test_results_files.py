"""Results files of any numbers."""

import math

from hypothesis import given
from hypothesis import strategies as st

from ita.reports.result_files import read_results
from ita.reports.tables import format_table, write_results

METRICS = st.dictionaries(st.sampled_from(["mIoU", "pACC", "IoU-é, x"]), st.floats(), min_size=1)
RESULTS = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.dictionaries(st.sampled_from(["sem_seg", "panoptic_seg", "segm"]), METRICS),
    max_size=3,
)


@given(RESULTS, st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.floats()))
def test_results_are_read_as_they_were_written(tmp_path, results, run):
    path = tmp_path / "results.json"
    write_results(results, path, run=run)
    content = read_results(path)

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(entry) for key, entry in value.items()}
        return value if math.isfinite(value) else None

    assert content["results"] == plain(results)
    assert content["run"] == plain(run)
    format_table(content["results"])

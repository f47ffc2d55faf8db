"""The report's tables."""

import json

from report_files import entry, write_measures, write_scores

from srgan_dist.evaluation.report_page.sources import read_sources
from srgan_dist.evaluation.report_page.tables import evidence, measure_table


def test_every_row_of_a_measure_says_what_it_rests_on(tmp_path):
    write_scores(tmp_path)
    write_measures(tmp_path)
    measures = json.loads((tmp_path / "measures.json").read_text())
    for method, of_method in measures["per_split"]["valid"]["coal"].items():
        few = entry(method, interval=False, images=2)
        of_method["raw"] |= {
            "frc_gain": few,
            "dice": entry(method, level="source", units=7, images=9, sources=7),
        }
    (tmp_path / "measures.json").write_text(json.dumps(measures))
    _, rows = measure_table(read_sources(tmp_path, tmp_path), "valid", "coal", "raw")
    found = {row["name"]: row["rests_on"] for row in rows}
    one = "1 source image, 1 plug"
    assert found["porosity"] == {"counts": f"3 images, {one}", "units": "12 blocks", "sort": 3}
    assert found["frc_gain"] == {"counts": f"2 images, {one}", "units": "too few units", "sort": 2}
    assert found["dice"]["counts"] == "9 images, 7 source images, 1 plug"
    assert found["dice"]["units"] == "7 source images"


def test_differences_of_what_is_in_percent_say_so():
    invented = entry("pretrain", unit="%", bias_kind="absolute", value=0.3, hr=0.0, bias=0.3)
    invented["against"] = {"bicubic": {"difference": 0.25, "interval": [0.1, 0.4]}}
    (row,) = evidence({"invented_pores": invented})
    assert (row["difference"], row["interval"]) == (
        "+0.250\N{NO-BREAK SPACE}%",
        "+0.100 to +0.400\N{NO-BREAK SPACE}%",
    )
    invented["against"]["bicubic"] = {"difference": None, "interval": None}
    assert evidence({"invented_pores": invented})[0]["difference"] == "\N{EN DASH}"

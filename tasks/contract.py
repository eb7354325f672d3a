"""Stage `contract`: checks `data/raw` against the data contract in `data/contract.yaml`.

Great Expectations checks every rule over one flat table. A broken `error` rule ends the stage, so
no later stage runs; a broken `warn` rule is printed. In both cases `report.html` and `result.json`
contain the results of all rules. Only rows that can be trained on go into `rows.parquet`.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.errors import GraftError, run_main
from tasks.core.files import write_bytes, write_json, write_text
from tasks.core.paths import BUILT_BASE, BUILT_CONTRACT, CONTRACT, PROMPTS, RAW
from tasks.core.settings import ContractSettings, load_settings
from tasks.data.contract_check import ContractResult, broken_message, check_contract
from tasks.data.contract_report import html_page, text_table
from tasks.data.contract_spec import ContractSpec, load_contract
from tasks.data.raw_rows import read_folder
from tasks.prompt.encoding import Prompt

ROWS = "rows.parquet"
REPORT = "report.html"
RESULT = "result.json"


def save(result: ContractResult, spec: ContractSpec, today: date, shown: int, folder: Path) -> None:
    """Write the report, the result and, unless an `error` rule is broken, the rows.

    Args:
        result: the result of the contract check.
        spec: the data contract.
        today: the date of the check.
        shown: the number of violations per rule that the report and the error message list.
        folder: the folder to write to.

    Raises:
        GraftError: an `error` rule is broken; the message names rules, counts and first violations.
    """
    (folder / ROWS).unlink(missing_ok=True)
    write_json(
        folder / RESULT,
        {
            "ok": not result.broken,
            "checked_on": today.isoformat(),
            "lines": result.lines,
            "rows": len(result.rows),
            "rules": [
                {"verdict": rule.verdict, **rule.model_dump(mode="json", by_alias=True)} for rule in result.results
            ],
        },
    )
    write_text(folder / REPORT, html_page(result.results, spec, result.lines, today, shown))
    if result.broken:
        raise GraftError(
            f"{broken_message(result, shown)}\n"
            f"Correct the rows, or the rules in {CONTRACT}; the whole report is {folder / REPORT}. "
            "No later stage ran, and the released package is unchanged."
        )
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pandas(result.rows, preserve_index=False), sink)
    write_bytes(folder / ROWS, sink.getvalue().to_pybytes())


def run(
    raw: Path, spec: ContractSpec, prompt: Prompt, settings: ContractSettings, today: date, folder: Path
) -> ContractResult:
    """Read the raw files, check them against the contract and save the result.

    Args:
        raw: the folder of raw files.
        spec: the data contract.
        prompt: the prompt that counts tokens and declares tools.
        settings: the section `contract` of `params.yaml`.
        today: the date of the check.
        folder: the folder to write to.

    Raises:
        GraftError: there are no raw files, or an `error` rule is broken (see `save`).
    """
    result = check_contract(read_folder(raw), spec, prompt, settings, today)
    if result.warnings:
        print(f"contract: warnings\n{text_table(result.warnings, settings.shown_violations)}", flush=True)
    save(result, spec, today, settings.shown_violations, folder)
    return result


def main() -> None:
    prompt = Prompt.load(PROMPTS, BUILT_BASE)
    result = run(RAW, load_contract(CONTRACT), prompt, load_settings().contract, date.today(), BUILT_CONTRACT)
    left_out = result.lines - len(result.rows)
    left_out_note = f", {left_out} lines left out as they cannot be trained on" if left_out else ""
    print(f"contract: {len(result.rows)} rows accepted{left_out_note}, {len(result.results)} rules checked")


if __name__ == "__main__":
    run_main(main)

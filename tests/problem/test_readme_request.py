"""The README's prediction request is valid."""

import re

from ontime.settings import ROOT
from serving.schemas import PredictRequest


def test_the_curl_command_of_the_readme_sends_a_valid_request() -> None:
    readme = (ROOT / "README.md").read_text()
    command = re.search(r"curl .*?/predict .*? -d '(\{.*?\})'", readme, re.S)
    assert command is not None
    assert len(PredictRequest.model_validate_json(command[1]).instances) == 1

import json

import torch

from trimtab.benchmarks.machine import Machine


def test_a_machine_says_all_that_a_number_needs():
    here = Machine.here(torch.device("cpu"), torch.bfloat16)
    told = json.loads(json.dumps(here.to_dict()))
    assert told["cpu"] and told["cores"] >= 1 and told["threads"] == torch.get_num_threads()
    assert (told["device"], told["dtype"]) == ("cpu", "bfloat16")
    assert set(told["versions"]) == {"python", "trimtab", "torch", "transformers", "peft"}
    assert here.cpu in str(here) and "bfloat16" in str(here) and torch.__version__ in str(here)

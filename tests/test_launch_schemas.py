"""What the launch scripts submit, against the schemas of JobSet, Slurm and gcloud.

`tests/files/cloud_schemas.json` has the names and types, and says where they are from.
"""

import functools
import json
import re
import shlex

import pytest
import yaml
from launching import FLAGS, LAUNCH, commands, run
from places import ROOT

SCHEMAS = json.loads((ROOT / "tests/files/cloud_schemas.json").read_text())
IS = {
    "string": lambda x: isinstance(x, str),
    "integer": lambda x: isinstance(x, int) and not isinstance(x, bool),
    "boolean": lambda x: isinstance(x, bool),
    "quantity": lambda x: bool(re.fullmatch(r"\d+(\.\d+)?([KMGTPE]i?|[mk])?", str(x))),
}

# ---- JobSet --------------------------------------------------------------------------------------


def faults(value, kind, where="JobSet"):
    """What is wrong with a part of a manifest, a line each."""
    if kind in IS:
        return [] if IS[kind](value) else [f"{where}: {value!r} is no {kind}"]
    if kind[0] in "[{":
        if not isinstance(value, list if kind[0] == "[" else dict):
            return [f"{where}: {value!r} is no {kind}"]
        items = enumerate(value) if kind[0] == "[" else value.items()
        return [x for i, v in items for x in faults(v, kind[1:-1], f"{where}.{i}")]
    schema = SCHEMAS["jobset"]["objects"][kind]
    unknown = value.keys() - schema["fields"].keys()
    wrong = [f"{where}.{name} is missing" for name in schema["required"] if name not in value]
    wrong += [f"{where}.{name} does not exist" for name in sorted(unknown)]
    for name in value.keys() - unknown:
        wrong += faults(value[name], schema["fields"][name], f"{where}.{name}")
        choices = SCHEMAS["jobset"]["choices"].get(f"{kind}.{name}")
        if choices and value[name] not in choices:
            wrong.append(f"{where}.{name} is {value[name]!r}, none of {choices}")
    return wrong


@functools.cache
def manifest():
    settings = {"IMAGE": "gcr.io/mine/vidgen", "MODEL_DIR": "gs://bucket/base", "SLICES": "2"}
    return run("gke.sh", "--dry_run", "--smoke", *FLAGS[:1], **settings).stdout


def test_jobset():
    job = yaml.safe_load(manifest())
    assert (job["apiVersion"], job["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert not faults(job, "JobSet")
    (slices,) = job["spec"]["replicatedJobs"]
    assert re.fullmatch("[a-z]([-a-z0-9]{0,61}[a-z0-9])?", slices["name"])
    # What the schema does not say: a policy by exit codes needs pods that do not start again, and
    # names a container that there is; a rule's name has letters of its own.
    pods = slices["template"]["spec"]
    (container,) = pods["template"]["spec"]["containers"]
    assert pods["template"]["spec"]["restartPolicy"] == "Never"
    codes = pods["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert codes["containerName"] == container["name"] and 0 not in codes["values"]
    for rule in job["spec"]["failurePolicy"]["rules"]:
        assert re.fullmatch("[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
    assert container["args"][0] == "--smoke"


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        ("name: preempted\n        ", "", "JobSet.spec.failurePolicy.rules.0.name is missing"),
        ("RestartJobSetAnd", "RestartAnd", "action is 'RestartAndIgnoreMaxRestarts', none of"),
        ('status: "True"', "state: yes", "onPodConditions.0.status is missing"),
        ("backoffLimit: 0", "backofLimit: 0", "spec.backofLimit does not exist"),
        ("replicas: 2", "replicas: two", "replicas: 'two' is no integer"),
        ("google.com/tpu: 4", "google.com/tpu: four", "google.com/tpu: 'four' is no quantity"),
        ("containerPort: 8471", "port: 8471", "ports.0.containerPort is missing"),
    ],
)
def test_a_fault_of_the_manifest_is_seen(before, after, fault):
    assert before in manifest()
    job = yaml.safe_load(manifest().replace(before, after))
    assert fault in "\n".join(faults(job, "JobSet"))


# ---- command lines -------------------------------------------------------------------------------


def option_faults(words, known):
    """Options --NAME and --NAME=VALUE that a command does not have, or not in this way."""
    wrong = []
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        kind = known.get(name)
        if kind is None:
            wrong.append(f"{word} does not exist")
        elif (kind == "flag" and equals) or (kind == "value" and not value):
            wrong.append(f"{word} is a {kind}")
    return wrong


SBATCH_VALUES = {
    "job-name": r"\w+",
    "nodes": r"\d+",
    "ntasks-per-node": r"\d+",
    "gpus-per-task": r"\d+",
    "cpus-per-task": r"\d+",
    "time": r"(\d+-)?\d+:\d\d:\d\d",
    "signal": r"([RB]+:)?(TERM|\d+)(@\d+)?",
    "open-mode": "append|truncate",
    "output": r"[\w%.-]+",
}


def test_slurm_options():
    lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
    head = lines[: next(i for i, line in enumerate(lines) if line[:1] != "#")]
    directives = [line for line in lines if line.startswith("#SBATCH")]
    # sbatch reads no further than the first command.
    assert directives == [line for line in head if line.startswith("#SBATCH")]
    options = [word for line in directives for word in shlex.split(line)[1:]]
    assert len(options) == len(directives) and not option_faults(options, sbatch := known("sbatch"))
    for name, equals, value in (option[2:].partition("=") for option in options):
        assert re.fullmatch(SBATCH_VALUES[name], value) if equals else sbatch[name] == "flag"
    (step,) = commands("slurm.sbatch", "--dry_run", "--smoke", *FLAGS, CLONE=str(LAUNCH.parent))
    end = step.index("vidgen")
    assert step[0] == "srun" and not option_faults(step[1:end], known("srun"))
    assert step[end : end + 4] == ["vidgen", "train", "--distributed", "--smoke"]


def known(command):
    return SCHEMAS["slurm"][command]


def test_a_fault_of_an_option_is_seen():
    wrong = option_faults(["--gpus-per-tasks=1", "--requeue=1", "--time"], known("sbatch"))
    assert wrong == [
        "--gpus-per-tasks=1 does not exist",
        "--requeue=1 is a flag",
        "--time is a value",
    ]


def gcloud_faults(line):
    """What is wrong with a command line of gcloud; which it is ends at its first argument."""
    assert line[0] == "gcloud"
    command = " ".join(line[1:5])
    options = SCHEMAS["gcloud"]["commands"].get(command)
    if options is None:
        return [f"gcloud {command} does not exist"]
    return option_faults(
        [word for word in line[5:] if word.startswith("--")], SCHEMAS["gcloud"]["wide"] | options
    )


def test_gcloud_options(tmp_path):
    lines = commands("tpu_vm.sh", "--dry_run", "--smoke", *FLAGS, SPOT="1", PROJECT="mine")
    lines += commands("tpu_vm.sh", "--dry_run", "--delete", PROJECT="mine")
    assert [line[4] for line in lines] == ["create", "scp", "ssh", "ssh", "delete"]
    assert not [fault for line in lines for fault in gcloud_faults(line)]
    # `gcloud ... describe`, whose answer the script reads, is not printed.
    (described,) = re.findall(
        r"gcloud (compute tpus tpu-vm describe) \"\$TPU_NAME\".*\\\n +\"--(\w+)=value\(state\)\"",
        (LAUNCH / "tpu_vm.sh").read_text(),
    )
    assert (
        described[0] in SCHEMAS["gcloud"]["commands"] and described[1] in SCHEMAS["gcloud"]["wide"]
    )
    assert gcloud_faults([*lines[0], "--spots"]) == ["--spots does not exist"]
    assert gcloud_faults(["gcloud", "compute", "tpus", "tpu-vm", "make", "a"])


def test_every_script_passes_the_smoke_test_on():
    (local,) = commands("local.sh", "--dry_run", "--smoke", *FLAGS)
    assert local[:3] == ["vidgen", "train", "--smoke"]
    for process in commands("local_multiprocess.sh", "--dry_run", "2", "--smoke", *FLAGS):
        assert process[-len(FLAGS) - 3 : -len(FLAGS)] == ["vidgen", "train", "--smoke"]
    *_, started = commands("tpu_vm.sh", "--dry_run", "--smoke", *FLAGS, PROJECT="a")
    assert "vidgen train --distributed --smoke" in started[-1]

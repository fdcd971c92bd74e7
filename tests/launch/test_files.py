"""The files in docs/launch: what the JobSets ask for, and that they, the scripts and the page agree."""

import math
import re
import subprocess
from typing import Any

import pytest
import yaml
from launchers import FILES

from flaxmill.sharding.processes.launch import Launch, find_launch
from flaxmill.train.named_configs import list_configs

PAGE = FILES.parent / "launch.md"
JOBSETS = ("jobset-tpu.yaml", "jobset-gpu.yaml")
SCRIPTS = ("slurm.sh", "mpirun.sh", "ssh.sh")


def jobset(name: str) -> dict[str, Any]:
    return yaml.safe_load((FILES / name).read_text())


def only_job(name: str) -> dict[str, Any]:
    [replicated] = jobset(name)["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def only_pod(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A pod's spec, and its one container."""
    pod = only_job(name)["template"]["spec"]
    [container] = pod["containers"]
    return pod, container


@pytest.mark.parametrize("name", JOBSETS)
def test_a_jobset_starts_one_pod_a_host_and_all_again_together(name: str) -> None:
    whole, job = jobset(name), only_job(name)
    assert (whole["apiVersion"], whole["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert job["parallelism"] == job["completions"]
    assert (job["completionMode"], job["backoffLimit"]) == ("Indexed", 0)
    assert whole["spec"]["failurePolicy"]["restartStrategy"] == "BlockingRecreate"


@pytest.mark.parametrize("name", JOBSETS)
@pytest.mark.parametrize(
    ("failure", "action"),
    [
        (75, "RestartJobSetAndIgnoreMaxRestarts"),
        (2, "FailJobSet"),
        (1, "RestartJobSet"),
        (137, "RestartJobSet"),
        (143, "RestartJobSet"),
        ("DisruptionTarget", "RestartJobSetAndIgnoreMaxRestarts"),
    ],
)
def test_a_jobset_does_what_an_exit_code_asks_for(name: str, failure: int | str, action: str) -> None:
    reason, message = job_failure(only_job(name)["podFailurePolicy"]["rules"], failure)
    policy = jobset(name)["spec"]["failurePolicy"]
    assert policy["maxRestarts"] > 0
    for rule in policy["rules"]:
        patterns = rule.get("onJobFailureMessagePatterns", [""])
        if reason in rule["onJobFailureReasons"] and any(re.search(text, message) for text in patterns):
            assert rule["action"] == action
            return
    assert action == "RestartJobSet"  # what JobSet does where no rule fits


def job_failure(rules: list[dict[str, Any]], failure: int | str) -> tuple[str, str]:
    """Reason and message of a failed Job, as Kubernetes words them (pod_failure_policy.go)."""
    for index, rule in enumerate(rules):
        assert rule["action"] == "FailJob"
        if failure in rule.get("onExitCodes", {}).get("values", []):
            assert rule["onExitCodes"]["operator"] == "In"
            words = f"Container train for pod default/x failed with exit code {failure} matching FailJob rule"
            return "PodFailurePolicy", f"{words} at index {index}"
        for condition in rule.get("onPodConditions", []):
            if condition == {"type": failure, "status": "True"}:
                words = f"Pod default/x has condition {failure} matching FailJob rule at index {index}"
                return "PodFailurePolicy", words
    return "BackoffLimitExceeded", "Job has reached the specified backoff limit"


@pytest.mark.parametrize("name", JOBSETS)
def test_a_pod_may_save_and_ends_with_flaxmills_own_exit_code(name: str) -> None:
    pod, container = only_pod(name)
    assert pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] >= 120
    program, command, config, *_ = container["command"]  # no shell stands between Kubernetes and flaxmill
    assert (program, command) == ("flaxmill", "train")
    assert config in list_configs()
    [policy] = [rule for rule in only_job(name)["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert policy["onExitCodes"]["containerName"] == container["name"]


@pytest.mark.parametrize("name", JOBSETS)
def test_a_jobset_shares_the_runs_and_the_cache(name: str) -> None:
    pod, container = only_pod(name)
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    claims = [volume["name"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume]
    assert [mounted[claim] for claim in claims] == ["/shared"]
    environ = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert environ["FLAXMILL_CACHE"].startswith("/shared/")
    run_dir = container["command"][container["command"].index("--run-dir") + 1]
    assert run_dir.startswith("/shared/")


def test_the_tpu_jobset_has_a_pod_for_each_host_of_its_slice() -> None:
    job, (pod, container) = only_job("jobset-tpu.yaml"), only_pod("jobset-tpu.yaml")
    selector = pod["nodeSelector"]
    chips = math.prod(map(int, selector["cloud.google.com/gke-tpu-topology"].split("x")))
    assert selector["cloud.google.com/gke-tpu-accelerator"] == "tpu-v5p-slice"
    assert job["parallelism"] * container["resources"]["limits"]["google.com/tpu"] == chips
    assert jobset("jobset-tpu.yaml")["metadata"]["annotations"] == {
        "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
    }


def test_the_pods_of_the_gpu_jobset_find_each_other() -> None:
    whole, job = jobset("jobset-gpu.yaml"), only_job("jobset-gpu.yaml")
    _, container = only_pod("jobset-gpu.yaml")
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    annotations = {  # what JobSet writes on a pod
        "metadata.annotations['jobset.sigs.k8s.io/jobset-name']": whole["metadata"]["name"],
        "metadata.annotations['jobset.sigs.k8s.io/replicatedjob-name']": whole["spec"]["replicatedJobs"][0][
            "name"
        ],
    }
    environ = {
        variable["name"]: variable.get("value") or annotations[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        for variable in container["env"]
    }
    assert find_launch(environ | {"JOB_COMPLETION_INDEX": "3"}) == Launch(
        "flaxmill-nodes-0-0.flaxmill:8476", job["parallelism"], 3, 0, 1, "JobSet"
    )
    assert container["ports"] == [{"containerPort": 8476}]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_whole_and_starts_flaxmill_train(name: str) -> None:
    subprocess.run(["bash", "-n", FILES / name], check=True)
    text = (FILES / name).read_text()
    assert re.search(r'(flaxmill|"\$FLAXMILL") train "\$@"', text)


def test_the_page_shows_every_file() -> None:
    page = PAGE.read_text()
    assert sorted(path.name for path in FILES.iterdir()) == sorted([*JOBSETS, *SCRIPTS])
    for name in (*JOBSETS, *SCRIPTS):
        assert f"(launch/{name})" in page, name

"""The deployment examples: what they promise is in them, and what they call exists.

No Docker engine and no cluster runs here; docs/deploy.md says what else was run and what was not.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tyro
from packaging.requirements import Requirement

from tests.docker.deployment import (
    DOCKER,
    DOCKERFILES,
    MANIFESTS,
    documents,
    final_stage,
    instructions,
    pods,
    read,
    services,
)

OURS = {"encode-once-pipeline": "pipeline", "encode-once-trainer": "trainer"}
# Who reads it, for each variable of the examples. The dynamic ones are looked for in the sources below.
READ_BY_OUR_CODE = {"AWS_ALLOW_HTTP"}
READ_BY_RAY = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_JOB_STOP_WAIT_TIME_S", "RAY_USAGE_STATS_ENABLED"}
READ_BY_OBSTORE = {"AWS_ENDPOINT", "AWS_REGION"}
READ_BY_OTHERS = {
    "HOME",
    "LOGNAME",
    "PATH",
    "PIP_DISABLE_PIP_VERSION_CHECK",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONUNBUFFERED",
}
READ_BY_TORCHRUN = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT"}
READ_BY_THE_S3_SERVER = {"MINIO_BROWSER"}


def images() -> set[str]:
    found = {service["image"] for service in services().values()}
    return found | {container["image"] for pod in pods().values() for container in pod["containers"]}


def environment_names() -> set[str]:
    found = {name for service in services().values() for name in service.get("environment", {})}
    found |= {item["name"] for pod in pods().values() for one in pod["containers"] for item in one.get("env", ())}
    for name in DOCKERFILES:
        for instruction, text in instructions(name):
            if instruction == "ENV":
                found |= set(re.findall(r"(\w+)=", text))
    exported = " ".join(line for line in (DOCKER / "cluster.yaml").read_text().splitlines() if "export " in line)
    return found | set(re.findall(r"(\w+)=", exported.split("ulimit")[0]))


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_is_pinned_small_and_not_roots(name: str) -> None:
    lines = instructions(name)
    (base,) = (text for instruction, text in lines if instruction == "ARG")
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.\d+\.\d+-slim-\w+", base)
    stages = [text for instruction, text in lines if instruction == "FROM"]
    assert stages == ["${PYTHON_IMAGE} AS install", "${PYTHON_IMAGE}"]
    last = final_stage(name)
    assert [text for instruction, text in last if instruction == "USER"] == ["1000:1000"]
    assert [text for instruction, text in last if instruction == "COPY"] == ["--from=install /opt/venv /opt/venv"]
    assert not any("pip install" in text for _, text in last)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_installs_what_is_pinned_and_nothing_else(name: str, repository: Path) -> None:
    text = (DOCKER / name).read_text()
    assert not re.search(r"https?://|index-url|find-links|trusted-host", text)
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in constraints(repository) if "==" in line}
    installs = [words for words in text.replace("\\\n", " ").splitlines() if "pip install" in words]
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", text)
    assert all("--constraint constraints.txt" in part or "--no-deps" in part for part in pip_installs(installs))
    for extra in extras.split(","):
        needed = project["optional-dependencies"][extra]
        assert {Requirement(one).name.lower().replace("_", "-") for one in needed} <= pinned
    assert extras == {"pipeline.Dockerfile": "pipeline,cluster", "trainer.Dockerfile": "trainer"}[name]


def constraints(repository: Path) -> list[str]:
    return (repository / "constraints.txt").read_text().splitlines()


def pip_installs(lines: list[str]) -> list[str]:
    found = [part for line in lines for part in line.split("&&") if "pip install" in part]
    assert len(found) == 3
    return found


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_build_sees_only_what_it_copies(name: str, repository: Path) -> None:
    ignored, *allowed = [
        line for line in (DOCKER / f"{name}.dockerignore").read_text().splitlines() if not line.startswith("#")
    ]
    assert ignored == "*"
    visible = {line.removeprefix("!").rstrip("/") for line in allowed if line.startswith("!")}
    copied: set[str] = set()
    for instruction, text in instructions(name):
        if instruction == "COPY" and not text.startswith("--from"):
            copied |= {source.rstrip("/") for source in text.split()[:-1]}
    assert copied == visible
    assert all((repository / source).exists() for source in copied)
    other = {"pipeline.Dockerfile": "trainer", "trainer.Dockerfile": "pipeline"}[name]
    assert other not in copied


def test_images_have_one_version_each() -> None:
    tags: dict[str, set[str]] = {}
    for image in images():
        repository, _, tag = image.partition(":")
        assert tag, image
        assert tag != "latest", image
        tags.setdefault(repository, set()).add(tag)
    assert set(OURS) < set(tags)
    assert all(len(found) == 1 for found in tags.values()), tags
    ours = set().union(*(tags[name] for name in OURS))
    assert len(ours) == 1
    texts = [(DOCKER / name).read_text() for name in DOCKERFILES] + [(DOCKER.parent / "docs/deploy.md").read_text()]
    assert {tag for text in texts for tag in re.findall(r"encode-once-(?:pipeline|trainer):(\S+)", text)} == ours


def test_the_manifests_name_the_ray_that_is_installed(repository: Path) -> None:
    version = documents("kuberay-rayjob.yaml")["RayJob"]["spec"]["rayClusterSpec"]["rayVersion"]
    assert f"ray=={version}" in constraints(repository)


def test_token_authentication_is_on_everywhere() -> None:
    ray_services = {name: one for name, one in services().items() if one["image"].startswith("encode-once-pipeline:")}
    assert {"ray-head", "ray-worker", "ray-worker-gpu"} == set(ray_services)
    for name, service in ray_services.items():
        assert service["environment"]["RAY_AUTH_MODE"] == "token", name
        assert service["environment"]["RAY_AUTH_TOKEN_PATH"] == f"/run/secrets/{service['secrets'][0]}", name
    assert documents("kuberay-rayjob.yaml")["RayJob"]["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    cluster = read("cluster.yaml")
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [line for line in cluster[key] if "ray start" in line]
        assert starts, key
        assert all("RAY_AUTH_MODE=token" in line for line in starts), key
    assert ("RAY_AUTH_MODE", "token") in re.findall(r"(\w+)=(\w+)", dict(final_stage("pipeline.Dockerfile"))["ENV"])


def test_nothing_is_open_to_the_network() -> None:
    published = [port for service in services().values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert all("network_mode" not in service and "privileged" not in service for service in services().values())
    cluster = read("cluster.yaml")
    assert any("--dashboard-host=127.0.0.1" in line for line in cluster["head_start_ray_commands"])
    for node in cluster["available_node_types"].values():
        assert node["node_config"]["SecurityGroupIds"]
    for name in MANIFESTS:
        found = documents(name)
        policy = found["NetworkPolicy"]["spec"]
        assert policy["policyTypes"] == ["Ingress"]
        assert all(rule["from"] for rule in policy["ingress"])
        assert found.get("Service", {"spec": {"clusterIP": "None"}})["spec"]["clusterIP"] == "None"
    for name, labels in pod_labels().items():
        image = pods()[name]["containers"][0]["image"].partition(":")[0]
        assert labels["app.kubernetes.io/name"] == image, name


def pod_labels() -> dict[str, Any]:
    ray = documents("kuberay-rayjob.yaml")["RayJob"]["spec"]
    cluster = ray["rayClusterSpec"]
    templates = {
        "submitter": ray["submitterPodTemplate"],
        "head": cluster["headGroupSpec"]["template"],
        "trainer": documents("kubernetes-trainer.yaml")["Job"]["spec"]["template"],
    } | {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    assert set(templates) == set(pods())
    return {name: template["metadata"]["labels"] for name, template in templates.items()}


def test_no_secret_is_written_down() -> None:
    names = environment_names()
    assert not {name for name in names if re.search(r"SECRET|PASSWORD|ACCESS_KEY|AUTH_TOKEN$|ROOT_USER", name)}
    for path in DOCKER.iterdir():
        assert not re.search(r"AKIA|BEGIN [A-Z ]*KEY|://\w+:\w+@", path.read_text()), path.name
    assert all("Secret" not in documents(name) for name in MANIFESTS)


def test_services_are_locked_down() -> None:
    for name, service in services().items():
        assert service["user"].startswith("${ENCODE_ONCE_USER:?"), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["deploy"]["resources"]["limits"]["memory"], name
        assert service["deploy"]["resources"]["limits"]["pids"], name
        assert any(mount.startswith("/tmp:") for mount in service["tmpfs"]), name
        if service["image"].partition(":")[0] in OURS:
            assert all("exec" in mount for mount in service["tmpfs"]), name
            assert "shm_size" in service, name
            assert "stop_grace_period" in service, name


def test_pods_are_locked_down() -> None:
    for name, pod in pods().items():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] == 1000, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), name
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert "hostPath" not in str(pod["volumes"]), name
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert {"cpu", "memory"} <= set(container["resources"]["limits"]), name
            mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
            assert {"/tmp"} <= set(mounts), name
            assert name == "submitter" or mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory", name
            assert name == "submitter" or pod["terminationGracePeriodSeconds"] > 0, name


def test_a_checkpoint_has_time_before_the_kill() -> None:
    pod = pods()["trainer"]
    (timeout,) = (
        int(one["value"]) for one in pod["containers"][0]["env"] if one["name"] == "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
    )
    assert timeout < pod["terminationGracePeriodSeconds"]
    service = services()["trainer-gpu"]
    assert int(service["environment"]["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) < int(service["stop_grace_period"].rstrip("s"))


def test_a_job_that_is_stopped_has_time_for_its_shards() -> None:
    from pipeline.presets import PRESETS

    (image,) = (text for kind, text in instructions("pipeline.Dockerfile") if kind == "ENV" and "RAY_" in text)
    for text in (image, " ".join(read("cluster.yaml")["head_start_ray_commands"])):
        (seconds,) = re.findall(r"RAY_JOB_STOP_WAIT_TIME_S=(\d+)", text)
        assert int(seconds) > PRESETS["sd3"][1].stop_grace_seconds


def test_the_cluster_fits_rays_schema() -> None:
    import ray

    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    cluster = read("cluster.yaml")
    jsonschema.Draft7Validator(schema).validate(cluster)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(schema).validate(cluster | {"setup_command": []})
    assert cluster["head_node_type"] in cluster["available_node_types"]
    # Without a GPU that is there the job has nothing to place its workers on.
    assert cluster["available_node_types"]["gpu"]["min_workers"] > 0


def test_what_the_cluster_copies_exists(repository: Path) -> None:
    local = [Path(path) for path in read("cluster.yaml")["file_mounts"].values() if not path.startswith("~")]
    assert all((repository / path).exists() for path in local)
    assert {"schemas", "pipeline", "pyproject.toml", "constraints.txt"} <= {str(path) for path in local}


def test_every_variable_is_read_by_somebody(repository: Path) -> None:
    import ray
    import torch.distributed.run

    known = READ_BY_OUR_CODE | READ_BY_RAY | READ_BY_OBSTORE | READ_BY_OTHERS | READ_BY_TORCHRUN | READ_BY_THE_S3_SERVER
    assert environment_names() == known
    sources = "".join(path.read_text() for path in (repository / "schemas").glob("*.py"))
    assert all(f'"{name}"' in sources for name in READ_BY_OUR_CODE)
    binary = (Path(ray.__file__).parent / "_raylet.so").read_bytes()
    folders = [Path(ray.__file__).parent / name for name in ("_private", "_common", "dashboard/modules/job")]
    package = "".join(path.read_text() for folder in folders for path in folder.rglob("*.py"))
    assert all(name in package or name.encode() in binary for name in READ_BY_RAY)
    launcher = Path(str(torch.distributed.run.__file__)).read_text()
    assert all(name in launcher for name in READ_BY_TORCHRUN)


def test_tyro_is_what_the_commands_are_parsed_with() -> None:
    """An option that does not exist must end the parse, or the tests of commands could not fail."""
    from pipeline.presets import PRESETS

    with pytest.raises(SystemExit):
        tyro.extras.overridable_config_cli(PRESETS, args=["sd3", "--input", "a", "--output", "b", "--no-such-option"])

"""Which GPUs a pilot finds, and which of them the batch system gave to it.

There is no GPU here: directory trees stand in for /proc, /dev and /sys, and recorded text for
`nvidia-smi`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ailurus.protocol.hardware import GpuModel
from pilot.node import gpus
from pilot.node.gpus import Gpu, Seen, parse_smi
from pilot.node.nvml import Device, Driver

K80 = ["GPU-be0a1aaf-c92d-ce5e-6d53-1f064e6842f6", "GPU-c6398fd0-9366-8e15-5d6a-369da852f85b",
       "GPU-eaf23aa1-4d3d-596c-da66-b86b0e5db584", "GPU-82523fd8-3897-f599-d088-ccd04ae45ec1"]  # fmt: skip
INFORMATION = """\
Model: \t\t NVIDIA A100-SXM4-40GB
IRQ:   \t\t 77
GPU UUID: \t {uuid}
Video BIOS: \t 94.02.26.40.81
Bus Type: \t PCIe
DMA Size: \t 47 bits
DMA Mask: \t 0x7fffffffffff
Bus Location: \t 0000:{bus:02x}:00.0
Device Minor: \t {minor}
GPU Firmware: \t 590.48.01
GPU Excluded:\t No
"""
MINORS = (2, 3, 0, 1)
"""By PCI address, as a node with AMD processors numbers them."""
SMI_MIG = """\
GPU 0: NVIDIA A100 40GB PCIe (UUID: GPU-48aeb943-9458-4282-da24-e5f49e0db44b)
  MIG 1g.5gb     Device  0: (UUID: MIG-fb42055e-9e53-5764-9278-438605a3014c)
  MIG 1g.5gb     Device  1: (UUID: MIG-3d4db13e-c42d-5555-98f4-8b50389791bc)
GPU 1: NVIDIA A100 40GB PCIe (UUID: GPU-9de3d0e8-33f5-10dc-0c79-2c88a7ab0a23)
"""
SMI_OLD_MIG = """\
GPU 0: Graphics Device (UUID: GPU-b8ea3855-276c-c9cb-b366-c6fa655957c5)
  MIG Device 0: (UUID: MIG-GPU-b8ea3855-276c-c9cb-b366-c6fa655957c5/1/0)
  MIG Device 1: (UUID: MIG-GPU-b8ea3855-276c-c9cb-b366-c6fa655957c5/1/1)
"""


def no_run(argv):
    raise AssertionError(f"{argv} was run")


def nvidia_node(root: Path, uuids=K80, minors=MINORS) -> Path:
    (root / "dev").mkdir()
    for bus, (uuid, minor) in enumerate(zip(uuids, minors, strict=True)):
        directory = root / f"proc/driver/nvidia/gpus/0000:{bus:02x}:00.0"
        directory.mkdir(parents=True)
        text = INFORMATION.format(uuid=uuid, bus=bus, minor=minor)
        (directory / "information").write_text(text)
        (root / f"dev/nvidia{minor}").touch()
    for name in ("nvidiactl", "nvidia-uvm"):
        (root / "dev" / name).touch()
    return root


def amd_node(root: Path) -> Path:
    (root / "dev/dri").mkdir(parents=True)
    texts = ["cpu_cores_count 64\nsimd_count 0\ndrm_render_minor 0\nunique_id 0\n"]
    texts += [
        f"cpu_cores_count 0\nsimd_count 440\ndrm_render_minor {render}\nunique_id {unique}\n"
        for render, unique in ((128, 0x1A2B3C4D5E6F7081), (129, 0x8070605040302010))
    ]
    for number, text in enumerate(texts):
        directory = root / f"sys/class/kfd/kfd/topology/nodes/{number}"
        directory.mkdir(parents=True)
        (directory / "properties").write_text(text)
    for render in (128, 129):
        (root / f"dev/dri/renderD{render}").touch()
    return root


def names(root: Path, **environment: str) -> list[str]:
    return [gpu.name for gpu in gpus.find(environment, root, run=no_run).gpus]


def test_a_node_without_gpus_has_none_and_runs_nothing(tmp_path):
    assert gpus.find({}, tmp_path, run=no_run).gpus == ()


def test_devices_are_named_by_uuid_in_the_order_of_the_bus_with_their_files(tmp_path):
    found = gpus.find({}, nvidia_node(tmp_path), run=no_run).gpus
    assert [gpu.name for gpu in found] == K80
    assert [gpu.files[0] for gpu in found] == [f"/dev/nvidia{minor}" for minor in MINORS]
    assert "/dev/nvidiactl" in found[0].files


def test_what_a_device_cgroup_forbids_is_not_there(tmp_path):
    root = nvidia_node(tmp_path)
    found = gpus.find({}, root, run=no_run, usable=lambda path: path.name != "nvidia2").gpus
    assert [gpu.name for gpu in found] == K80[1:]


def test_a_device_file_that_is_missing_is_no_device(tmp_path):
    root = nvidia_node(tmp_path)
    (root / "dev/nvidia0").unlink()
    assert names(root) == [K80[0], K80[1], K80[3]]


@pytest.mark.parametrize("uuid", ["", "GPU-????????-????-????-????-????????????"])
def test_without_a_uuid_a_device_is_named_by_its_index(tmp_path, uuid):
    assert names(nvidia_node(tmp_path, [uuid, uuid], [4, 5])) == ["0", "1"]


def test_without_the_drivers_files_in_proc_the_devices_are_counted(tmp_path):
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-caps"):
        (tmp_path / "dev" / name).touch()
    found = gpus.find({}, tmp_path, run=no_run).gpus
    assert [(gpu.name, gpu.number) for gpu in found] == [("0", 0), ("1", 1), ("2", 10)]


@pytest.mark.parametrize(
    ("environment", "given"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,2"}, [0, 2]),
        ({"CUDA_VISIBLE_DEVICES": f"{K80[3]},{K80[1]}"}, [3, 1]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-eaf23aa1"}, [2]),
        ({"CUDA_VISIBLE_DEVICES": "1, 1"}, [1]),
        ({"CUDA_VISIBLE_DEVICES": ""}, []),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, []),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, []),
        ({"CUDA_VISIBLE_DEVICES": "0,-1,1"}, [0]),
        ({"CUDA_VISIBLE_DEVICES": "7"}, []),
        ({"CUDA_VISIBLE_DEVICES": "GPU-"}, []),
        ({"CUDA_VISIBLE_DEVICES": f"{'9' * 5000},1"}, [1]),
        ({"GPU_DEVICE_ORDINAL": "3"}, [3]),
        ({"CUDA_VISIBLE_DEVICES": "1", "GPU_DEVICE_ORDINAL": "0", "SLURM_JOB_GPUS": "2"}, [1]),
        ({"SLURM_JOB_GPUS": "2,0"}, [0, 2]),
        ({"SLURM_STEP_GPUS": "1", "SLURM_JOB_GPUS": "1,2"}, [3]),
        ({"_CONDOR_AssignedGPUs": "CUDA1, CUDA2"}, [1, 2]),
        ({"_CONDOR_AssignedGPUs": "GPU-be0a1aaf"}, [0]),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, [0, 1, 2, 3]),
        ({"NVIDIA_VISIBLE_DEVICES": "void"}, []),
        ({"NVIDIA_VISIBLE_DEVICES": "none"}, []),
        ({"NVIDIA_VISIBLE_DEVICES": "3"}, [1]),
        ({"ROCR_VISIBLE_DEVICES": ""}, [0, 1, 2, 3]),
    ],
)
def test_no_more_is_found_than_the_batch_system_gave(tmp_path, environment, given):
    found = names(nvidia_node(tmp_path), **environment)
    assert sorted(found) == sorted(K80[nr] for nr in given)


def test_positions_count_what_may_be_opened(tmp_path):
    """Slurm counts from 0 within a device cgroup."""
    root = nvidia_node(tmp_path)
    only = ("nvidia0", "nvidia1")
    environment = {"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_JOB_GPUS": "0,1"}
    found = gpus.find(environment, root, run=no_run, usable=lambda path: path.name in only).gpus
    assert [gpu.name for gpu in found] == K80[2:]


def test_mig_instances_stand_for_their_gpu(tmp_path):
    uuids = ["GPU-48aeb943-9458-4282-da24-e5f49e0db44b", "GPU-9de3d0e8-33f5-10dc-0c79-2c88a7ab0a23"]
    root = nvidia_node(tmp_path, uuids, [0, 1])
    (root / "proc/driver/nvidia/capabilities/gpu0/mig/gi7").mkdir(parents=True)
    found = gpus.find({}, root, run=lambda argv: SMI_MIG).gpus
    assert [gpu.name[:12] for gpu in found] == ["MIG-fb42055e", "MIG-3d4db13e", "GPU-9de3d0e8"]
    assert len({gpu.key for gpu in found}) == 3
    assert "/dev/nvidia-caps" in found[0].files
    assert "/dev/nvidia-caps" not in found[2].files
    environment = {"CUDA_VISIBLE_DEVICES": "MIG-3d4db13e-c42d-5555-98f4-8b50389791bc"}
    assert gpus.find(environment, root, run=lambda argv: SMI_MIG).gpus == (found[1],)


@pytest.mark.parametrize("text", ["", "GPU 0: A100 (UUID: GPU-9de3d0e8)\n"])
def test_gpus_whose_division_is_not_known_are_not_handed_out(tmp_path, text):
    root = nvidia_node(tmp_path)
    (root / "proc/driver/nvidia/capabilities/gpu0/mig/gi7").mkdir(parents=True)
    assert gpus.find({}, root, run=lambda argv: text).gpus == ()


def test_older_names_of_mig_instances_are_read_too():
    (instances,) = parse_smi(SMI_OLD_MIG).values()
    assert instances[1] == "MIG-GPU-b8ea3855-276c-c9cb-b366-c6fa655957c5/1/1"


def test_text_of_a_tool_that_found_nothing_names_nothing():
    assert parse_smi("No devices were found\n") == {}


def test_amd_devices_are_found_by_the_kernels_list(tmp_path):
    root = amd_node(tmp_path)
    found = gpus.find({}, root, run=no_run).gpus
    assert [gpu.name for gpu in found] == ["GPU-1a2b3c4d5e6f7081", "GPU-8070605040302010"]
    assert found[1].files == ("/dev/dri/renderD129", "/dev/kfd")
    assert names(root, ROCR_VISIBLE_DEVICES="1") == ["GPU-8070605040302010"]
    assert names(root, CUDA_VISIBLE_DEVICES="", GPU_DEVICE_ORDINAL="0") == ["GPU-1a2b3c4d5e6f7081"]


def gpu(name: str, *, amd: bool = False) -> Gpu:
    return Gpu(name=name, number=0, key=name, files=(), amd=amd)


def test_a_payload_sees_its_own_devices_and_no_others():
    shown = gpus.visible([gpu("GPU-a"), gpu("GPU-b"), gpu("GPU-c", amd=True)])
    assert shown["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    assert shown["ROCR_VISIBLE_DEVICES"] == "GPU-c"


def test_a_payload_without_gpus_sees_none():
    shown = gpus.visible([])
    assert (shown["CUDA_VISIBLE_DEVICES"], shown["ROCR_VISIBLE_DEVICES"]) == ("", "")


def test_a_command_that_is_missing_or_fails_wrote_nothing():
    assert gpus.run_command(["/nonexistent-command"]) == ""
    assert gpus.run_command(["/bin/false"]) == ""
    assert gpus.run_command(["/bin/echo", "x"]) == "x\n"


# what they are ------------------------------------------------------------------------------------


def test_the_driver_names_models_memory_and_instances(tmp_path):
    root = nvidia_node(tmp_path, ["GPU-a", "GPU-b"], (1, 0))
    part = Device(uuid="MIG-c", model="A100 3g", memory_mb=40_000, minor=1)
    whole = Device(uuid="GPU-a", model="A100", memory_mb=80_000, minor=1, instances=(part,))
    other = Device(uuid="GPU-b", model="H200", memory_mb=144_000, minor=0)
    driver = Driver(version="570", cuda="12.8", devices=(other, whole))
    seen = gpus.find({}, root, run=no_run, ask=lambda: driver)
    assert [(gpu.name, gpu.model, gpu.memory_mb) for gpu in seen.gpus] == [
        ("MIG-c", "A100 3g", 40_000),
        ("GPU-b", "H200", 144_000),
    ]
    assert (seen.driver, seen.cuda) == ("570", "12.8")
    assert seen.gpus[0].key == "MIG-c"
    assert "/dev/nvidia-caps" in seen.gpus[0].files


def test_a_node_without_gpus_is_not_asked_for_its_driver(tmp_path):
    def ask():
        raise AssertionError("it was asked")

    assert gpus.find({}, tmp_path, run=no_run, ask=ask) == Seen(gpus=())


def test_without_the_library_the_driver_names_models_in_proc(tmp_path):
    seen = gpus.find({}, nvidia_node(tmp_path), run=no_run, ask=lambda: None)
    assert {gpu.model for gpu in seen.gpus} == {"NVIDIA A100-SXM4-40GB"}


def test_models_are_counted(tmp_path):
    seen = gpus.find({}, nvidia_node(tmp_path), run=no_run, ask=lambda: None)
    assert gpus.models(seen.gpus) == (
        GpuModel(count=4, vendor="nvidia", model="NVIDIA A100-SXM4-40GB"),
    )
    assert gpus.models(()) == ()


def test_the_kernel_names_amds_models_and_their_memory(tmp_path):
    root = amd_node(tmp_path)
    nodes = root / "sys/class/kfd/kfd/topology/nodes"
    first, second = (f"{nodes}/{gpu.number + 1}" for gpu in gpus.find({}, root, run=no_run).gpus)
    product = root / "sys/class/drm/renderD128/device/product_name"
    product.parent.mkdir(parents=True)
    product.write_text("AMD Instinct MI250X\n")
    Path(second, "name").write_text("aldebaran\n", "utf-8")
    for bank, (heap, size) in enumerate([(1, 64 << 30), (2, 1 << 20), (4, 1 << 30)]):
        directory = Path(first, f"mem_banks/{bank}")
        directory.mkdir(parents=True)
        (directory / "properties").write_text(f"heap_type {heap}\nsize_in_bytes {size}\n")
    assert [(gpu.model, gpu.memory_mb) for gpu in gpus.find({}, root, run=no_run).gpus] == [
        ("AMD Instinct MI250X", (64 << 10) + 1),
        ("aldebaran", 0),
    ]

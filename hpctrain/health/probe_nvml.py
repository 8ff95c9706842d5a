"""Read the GPUs through NVML: one initialisation, one snapshot, each field with an error of its own (adapter).

Runs in a child that may be abandoned (:mod:`hpctrain.health.probe_child`): each GPU is told as soon as it is read, and each
call is named before it is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pynvml as nvml

from hpctrain.health.gpu_fields import IMPLAUSIBLE
from hpctrain.health.gpu_reader import GpuReader, Lost, bus_address, plain, scaled
from hpctrain.health.probe_child import Report
from hpctrain.health.probe_processes import describe_process

NOT_SUPPORTED = "not_supported"
# What NVML says of a function or argument that this driver, card or mode does not know.
_ABSENT = {
    nvml.NVML_ERROR_NOT_SUPPORTED,
    nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    nvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
    nvml.NVML_ERROR_DEPRECATED,
    nvml.NVML_ERROR_VGPU_ECC_NOT_SUPPORTED,
    nvml.NVML_ERROR_FREQ_NOT_SUPPORTED,
    nvml.NVML_ERROR_INVALID_ARGUMENT,
    nvml.NVML_ERROR_NO_DATA,
}
_NAMES = {value: name[len("NVML_ERROR_") :].lower() for name, value in vars(nvml).items() if name.startswith("NVML_ERROR_")}

_FIELDS: dict[str, tuple[int, ...]] = {
    "memory_temperature_c": (82,),
    "power_average_w": (185,),
    "recovery_action": (230,),
    "pcie_fatal_errors": (180,),
    "pcie_non_fatal_errors": (179,),
    "nvlink_speed_mbps": (90,),
    "nvlink_replays": (52,),
    "nvlink_recoveries": (59,),
    "nvlink_crc_errors": (38, 45),
    "margin_slowdown_c": (194,),
    "hw_thermal_slowdown_ns": (270,),
    "hw_power_brake_ns": (271,),
    "c2c_errors": (231,),
}
"""Our name -> NVML's field numbers, which are added up."""
_LINK_COUNT_FIELD = 91
_UNION = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
_MOST_LINKS = 36
_MOST_PROCESSES = 10_000


def read_gpus(
    report: Report, *, minors: tuple[int, ...] | None, thorough: bool, library: str = "", proc: str = "/proc"
) -> None:
    """Tell versions, the number of GPUs, and each GPU in scope.

    Args:
        minors: device numbers of the GPUs in scope; None for all.
        thorough: also make calls that may take long, such as the check of the InfoROM.
        library: path of an NVML library to use instead of the system's.
        proc: where processes are looked up.
    """
    if library:
        import ctypes

        # A library that is already loaded under its soname is what the loader gives to pynvml.
        try:
            ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            report.emit(nvml_error="configured_library_missing")  # our mistake, not the node's
            return
    report.step("nvmlInit")
    try:
        nvml.nvmlInit()
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as error:
        report.emit(nvml_error=_error_name(error))
        return
    report.emit(gpus_seen=count, versions=_versions(report))
    for index in range(min(count, 256)):
        gpu = _read_gpu(report, index, minors, thorough, proc)
        if gpu:
            report.emit(gpu=gpu)
    report.step("nvmlShutdown")
    nvml.nvmlShutdown()


def _error_name(error: BaseException) -> str:
    code = getattr(error, "value", None)
    if code is None:
        return "garbled"  # not an NVML error: the answer itself could not be decoded
    return NOT_SUPPORTED if code in _ABSENT else _NAMES.get(code, f"error_{code}")


def _versions(report: Report) -> dict[str, str]:
    calls = {
        "driver": nvml.nvmlSystemGetDriverVersion,
        "nvml": nvml.nvmlSystemGetNVMLVersion,
        "cuda": lambda: _cuda(nvml.nvmlSystemGetCudaDriverVersion_v2()),
    }
    found = {}
    for name, call in calls.items():
        report.step(f"nvmlSystemGet {name} version")
        try:
            found[name] = str(call())
        except Exception:  # noqa: BLE001, S112 - a version is nice to have
            continue
    return found


def _cuda(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _read_gpu(
    report: Report, index: int, minors: tuple[int, ...] | None, thorough: bool, proc: str
) -> dict[str, Any] | None:
    reader = GpuReader(report, index, _error_name)
    gpu: dict[str, Any] = {"index": index, "values": reader.values, "errors": reader.errors}
    try:
        handle = reader.ask("handle", nvml.nvmlDeviceGetHandleByIndex, index)
        if handle is None:
            return gpu
        reader.one("minor", nvml.nvmlDeviceGetMinorNumber, handle)
        if minors is not None and reader.values.get("minor", index) not in minors:
            return None
        gpu["uuid"] = plain(reader.ask("uuid", nvml.nvmlDeviceGetUUID, handle))
        pci = reader.ask("pci", nvml.nvmlDeviceGetPciInfo, handle)
        gpu["pci_bus"] = bus_address(pci.busId) if pci is not None else ""
        _read_identity(reader, handle, thorough)
        _read_memory(reader, handle)
        _read_heat_and_power(reader, handle)
        _read_fields(reader, handle)
        _read_links(reader, handle)
        gpu["processes"] = list(_processes(reader, handle, proc))
    except Lost:
        pass
    return gpu


def _read_identity(reader: GpuReader, handle: Any, thorough: bool) -> None:
    reader.one("name", nvml.nvmlDeviceGetName, handle)
    reader.one("serial", nvml.nvmlDeviceGetSerial, handle)
    reader.one("vbios", nvml.nvmlDeviceGetVbiosVersion, handle)
    reader.one("inforom", nvml.nvmlDeviceGetInforomImageVersion, handle)
    reader.one("gsp_firmware", nvml.nvmlDeviceGetGspFirmwareVersion, handle)
    reader.one("persistence", nvml.nvmlDeviceGetPersistenceMode, handle)
    reader.one("compute_mode", nvml.nvmlDeviceGetComputeMode, handle)
    reader.several("mig_mode", nvml.nvmlDeviceGetMigMode, handle)
    reader.several("ecc_mode ecc_mode_pending", nvml.nvmlDeviceGetEccMode, handle)
    if thorough:
        reader.ask("inforom_valid", nvml.nvmlDeviceValidateInforom, handle)
        if "inforom_valid" not in reader.errors:
            reader.put("inforom_valid", 1)


def _read_memory(reader: GpuReader, handle: Any) -> None:
    reader.several("memory_total_bytes memory_used_bytes memory_reserved_bytes", _memory, handle)
    if "memory_used_bytes" not in reader.values:
        reader.several("memory_total_bytes memory_used_bytes", _memory_v1, handle)
    for counter, aggregate in (("volatile", nvml.NVML_VOLATILE_ECC), ("aggregate", nvml.NVML_AGGREGATE_ECC)):
        for kind, uncorrected in (("corrected", 0), ("uncorrected", 1)):
            reader.one(f"ecc_{counter}_{kind}", nvml.nvmlDeviceGetTotalEccErrors, handle, uncorrected, aggregate)
    reader.several("sram_threshold_exceeded sram_aggregate_uncorrected", _sram, handle)
    rows = "remapped_corrected remapped_uncorrected remap_pending remap_failed"
    reader.several(rows, nvml.nvmlDeviceGetRemappedRows, handle)
    histogram = reader.ask("remap_banks_without_spares", nvml.nvmlDeviceGetRowRemapperHistogram, handle)
    if histogram is not None:
        reader.put("remap_banks_without_spares", histogram.none)
    if "remap_failed" not in reader.values:  # cards before Ampere retire pages instead of remapping rows
        for field, cause in (("retired_single_bit", 0), ("retired_double_bit", 1)):
            reader.one(field, _retired_pages, handle, cause)
        reader.one("retired_pending", nvml.nvmlDeviceGetRetiredPagesPendingStatus, handle)
    reader.several("channel_repair_pending tpc_repair_pending", _repair, handle)
    reader.one("memory_unrepairable", _unrepairable, handle)


def _memory(handle: Any) -> tuple[int, int, int]:
    info = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
    return info.total, info.used, info.reserved


def _memory_v1(handle: Any) -> tuple[int, int]:
    info = nvml.nvmlDeviceGetMemoryInfo(handle)
    return info.total, info.used


def _sram(handle: Any) -> tuple[int, int]:
    status = nvml.c_nvmlEccSramErrorStatus_v1_t()
    status.version = nvml.nvmlEccSramErrorStatus_v1
    nvml.nvmlDeviceGetSramEccErrorStatus(handle, nvml.byref(status))
    return status.bThresholdExceeded, status.aggregateUncParity + status.aggregateUncSecDed


def _retired_pages(handle: Any, cause: int) -> int:
    """How many; pynvml's own call makes room for as many addresses as the driver claims, which may be garbage."""
    count = nvml.c_uint(0)
    function = nvml._nvmlGetFunctionPointer("nvmlDeviceGetRetiredPages")
    _sized(function(handle, cause, nvml.byref(count), None))
    return int(count.value)


def _sized(code: int) -> None:
    """What a call returns that was only asked how much room it needs."""
    if code not in (nvml.NVML_SUCCESS, nvml.NVML_ERROR_INSUFFICIENT_SIZE):
        raise nvml.NVMLError(code)


def _process_list(handle: Any) -> Iterable[Any]:
    """The processes on a GPU; a number that no GPU has is refused before room is made for it."""
    count = nvml.c_uint(0)
    function = nvml._nvmlGetFunctionPointer("nvmlDeviceGetComputeRunningProcesses_v3")
    _sized(function(handle, nvml.byref(count), None))
    if count.value > _MOST_PROCESSES:
        raise ValueError(f"{count.value} processes on one GPU")
    found: Iterable[Any] = nvml.nvmlDeviceGetComputeRunningProcesses(handle) if count.value else ()
    return found


def _repair(handle: Any) -> list[int]:
    status = nvml.c_nvmlRepairStatus_t()
    status.version = nvml.nvmlRepairStatus_v1
    function = nvml._nvmlGetFunctionPointer("nvmlDeviceGetRepairStatus")
    nvml._nvmlCheckReturn(function(handle, nvml.byref(status)))
    return [status.bChannelRepairPending, status.bTpcRepairPending]


def _unrepairable(handle: Any) -> int:
    status = nvml.c_nvmlUnrepairableMemory_v1_t()
    status.version = nvml.nvmlUnrepairableMemory_v1
    function = nvml._nvmlGetFunctionPointer("nvmlDeviceGetUnrepairableMemoryFlag_v1")
    nvml._nvmlCheckReturn(function(handle, nvml.byref(status)))
    return int(status.unrepairableMemory)


def _read_heat_and_power(reader: GpuReader, handle: Any) -> None:
    reader.one("temperature_c", nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
    reader.one(
        "temperature_slowdown_c", nvml.nvmlDeviceGetTemperatureThreshold, handle, nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
    )
    reader.one("margin_c", nvml.nvmlDeviceGetMarginTemperature, handle)
    reader.one("power_w", nvml.nvmlDeviceGetPowerUsage, handle, scale=1000)
    reader.one("power_limit_w", nvml.nvmlDeviceGetEnforcedPowerLimit, handle, scale=1000)
    reader.one("power_limit_default_w", nvml.nvmlDeviceGetPowerManagementDefaultLimit, handle, scale=1000)
    reader.one("clock_sm_mhz", nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM)
    reader.one("clock_sm_max_mhz", nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_SM)
    reader.one("clock_sm_limit_mhz", nvml.nvmlDeviceGetApplicationsClock, handle, nvml.NVML_CLOCK_SM)
    reader.one("clock_memory_mhz", nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_MEM)
    reader.one("clock_memory_max_mhz", nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_MEM)
    reader.one("clock_reasons", nvml.nvmlDeviceGetCurrentClocksEventReasons, handle)
    utilization = reader.ask("utilization_percent", nvml.nvmlDeviceGetUtilizationRates, handle)
    if utilization is not None:
        reader.put("utilization_percent", utilization.gpu)


def _read_fields(reader: GpuReader, handle: Any) -> None:
    ids = [number for numbers in _FIELDS.values() for number in numbers] + [_LINK_COUNT_FIELD]
    answers = reader.ask(" ".join(_FIELDS), nvml.nvmlDeviceGetFieldValues, handle, ids)
    if answers is None:
        return
    by_id = {answer.fieldId: answer for answer in answers}
    for field, numbers in _FIELDS.items():
        codes = {by_id[number].nvmlReturn for number in numbers}
        if codes == {0}:
            reader.put(field, scaled(field, sum(_value(by_id[number]) for number in numbers)))
        else:
            bad = max(codes - {0})
            reader.errors[field] = NOT_SUPPORTED if bad in _ABSENT else _NAMES.get(bad, f"error_{bad}")
    links = by_id[_LINK_COUNT_FIELD]
    if links.nvmlReturn == 0:
        reader.put("nvlinks", _value(links))


def _value(answer: Any) -> float | int:
    kind = answer.valueType
    value: float | int = getattr(answer.value, _UNION[kind if 0 <= kind < len(_UNION) else 3])
    return value


def _read_links(reader: GpuReader, handle: Any) -> None:
    reader.one("pcie_width", nvml.nvmlDeviceGetCurrPcieLinkWidth, handle)
    reader.one("pcie_width_max", nvml.nvmlDeviceGetMaxPcieLinkWidth, handle)
    reader.one("pcie_generation", nvml.nvmlDeviceGetCurrPcieLinkGeneration, handle)
    reader.one("pcie_generation_max", nvml.nvmlDeviceGetMaxPcieLinkGeneration, handle)
    reader.one("pcie_replays", nvml.nvmlDeviceGetPcieReplayCounter, handle)
    _read_nvlinks(reader, handle)
    fabric = reader.ask("fabric_state fabric_status fabric_health_mask", _fabric, handle)
    if fabric is not None and fabric[0] != 0:
        for field, value in zip(("fabric_state", "fabric_status", "fabric_health_mask"), fabric, strict=True):
            reader.put(field, value)


def _read_nvlinks(reader: GpuReader, handle: Any) -> None:
    states: list[int] = []
    most = int(reader.values.get("nvlinks", _MOST_LINKS))
    for link in range(min(most, _MOST_LINKS)):
        state = reader.ask("nvlinks_active", nvml.nvmlDeviceGetNvLinkState, handle, link)
        if state is None:
            break
        states.append(state)
    if not states:
        return
    if reader.errors.get("nvlinks_active") == NOT_SUPPORTED:
        del reader.errors["nvlinks_active"]  # the call after the last link
    if "nvlinks_active" in reader.errors or not set(states) <= {0, 1}:
        reader.errors.setdefault("nvlinks_active", IMPLAUSIBLE)
        return
    reader.put("nvlinks", len(states))
    reader.put("nvlinks_active", sum(states))
    down = [str(link) for link, state in enumerate(states) if not state]
    if down:
        reader.put("nvlinks_down", ",".join(down))


def _fabric(handle: Any) -> tuple[int, int, int]:
    info = nvml.c_nvmlGpuFabricInfo_v2_t()
    info.version = nvml.nvmlGpuFabricInfo_v2
    nvml.nvmlDeviceGetGpuFabricInfoV(handle, nvml.byref(info))
    return info.state, info.status, info.healthMask


def _processes(reader: GpuReader, handle: Any, proc: str) -> Iterator[dict[str, Any]]:
    found: Iterable[Any] = reader.ask("processes", _process_list, handle) or ()
    for process in list(found)[:256]:
        about = describe_process(proc, process.pid)
        if about is not None:  # it vanished while we looked
            yield {"pid": process.pid, "memory_bytes": int(process.usedGpuMemory or 0), **about}

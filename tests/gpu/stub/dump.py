"""What a machine with GPUs answered, written down as JSON, and a scenario that answers the same.

A dump is what :func:`record` returns and ``benchmarks/gpu_check.py`` writes::

    {
      "format": "crucible_otel.nvml/1",
      "calls": [
        {"function": "nvmlSystemGetDriverVersion", "result": "550.54.15"},
        {"function": "nvmlDeviceGetPowerUsage", "device": "0", "t_s": 0.0, "result": 350000},
        {"function": "nvmlDeviceGetPowerUsage", "device": "0", "t_s": 1.0, "result": 351000},
        {"function": "nvmlDeviceGetTemperatureThreshold", "device": "0", "arguments": [0], "result": 92},
        {"function": "nvmlDeviceGetMemoryInfo_v2", "device": "0.1", "result": {"total": 1, "reserved": 0, ...}},
        {"function": "nvmlDeviceGetFanSpeed", "device": "0", "error": 3},
        {"function": "nvmlDeviceGetFieldValues", "device": "0", "result":
            [{"field": 83, "scope": 0, "type": 3, "value": 1000000}, {"field": 82, "scope": 0, "error": 3}]},
        {"function": "nvmlGpmMetricsGet", "device": "0", "result": [{"metric": 2, "value": 91.2}]},
        {"function": "nvmlDeviceGetComputeRunningProcesses_v3", "device": "0", "result":
            [{"pid": 42, "usedGpuMemory": 1073741824, "gpuInstanceId": 4294967295, "computeInstanceId": 4294967295}]}
      ]
    }

``function`` is NVML's symbol (``nvmlDeviceGetCount_v2``), ``device`` the index of a GPU or ``GPU.INSTANCE``, absent for
calls about the host; ``t_s`` the seconds since the first call, optional. ``result`` is what pynvml returns: a number, a
text, a list, or a struct's fields by name. ``error`` is NVML's code instead. Of calls that were repeated, the scenario
gives one answer after the other; functions that the stub does not have are left out.
"""

from __future__ import annotations

import ctypes
import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import pynvml

__all__ = ["FORMAT", "record", "scenario"]

FORMAT: Final = "crucible_otel.nvml/1"
NOT_SUPPORTED: Final = 3
FUNCTION_NOT_FOUND: Final = 13
CAPABILITY: Final = "nvmlDeviceGetCudaComputeCapability"
ALL_LINKS: Final = 0xFFFFFFFF

Dump = Mapping[str, Any]
Call = Mapping[str, Any]
Answers = dict[str, str]

TYPES: Final = ("double", "uint", "ulong", "ull", "sll", "sint", "ushort")
MEMBERS: Final = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")

CLOCKS: Final = {0: "graphics", 1: "sm", 2: "memory", 3: "video"}
ECC: Final = {
    (0, 0): "ecc_corrected_volatile",
    (0, 1): "ecc_corrected_aggregate",
    (1, 0): "ecc_uncorrected_volatile",
    (1, 1): "ecc_uncorrected_aggregate",
}
ATTRIBUTES: Final = {
    "multiprocessorCount": "multiprocessors",
    "sharedCopyEngineCount": "copy_engines",
    "sharedDecoderCount": "decoders",
    "sharedEncoderCount": "encoders",
    "sharedJpegCount": "jpegs",
    "sharedOfaCount": "ofas",
    "gpuInstanceSliceCount": "gpu_slices",
    "computeInstanceSliceCount": "compute_slices",
    "memorySizeMB": "memory_size_mb",
}

# What a function returns, as the keys of a scenario: one, or one for each part of what it returns. "{0}" is the first
# argument.
KEYS: Final[Mapping[str, str | Sequence[str] | Mapping[str, str]]] = {
    "nvmlSystemGetDriverVersion": "driver_version",
    "nvmlSystemGetNVMLVersion": "nvml_version",
    "nvmlSystemGetCudaDriverVersion_v2": "cuda_version",
    "nvmlDeviceGetName": "name",
    "nvmlDeviceGetUUID": "uuid",
    "nvmlDeviceGetSerial": "serial",
    "nvmlDeviceGetBoardPartNumber": "part_number",
    "nvmlDeviceGetVbiosVersion": "vbios_version",
    "nvmlDeviceGetMinorNumber": "minor_number",
    "nvmlDeviceGetBoardId": "board_id",
    "nvmlDeviceGetMultiGpuBoard": "multi_gpu_board",
    "nvmlDeviceGetBrand": "brand",
    "nvmlDeviceGetArchitecture": "architecture",
    "nvmlDeviceGetPciInfo_v3": {
        "busId": "pci_bus_id",
        "pciDeviceId": "pci_device_id",
        "pciSubSystemId": "pci_subsystem_id",
    },
    "nvmlDeviceGetNumGpuCores": "cores",
    "nvmlDeviceGetMemoryBusWidth": "memory_bus_width",
    "nvmlDeviceGetPersistenceMode": "persistence_mode",
    "nvmlDeviceGetComputeMode": "compute_mode",
    "nvmlDeviceGetDisplayActive": "display_active",
    "nvmlDeviceGetDisplayMode": "display_mode",
    "nvmlDeviceGetPowerSource": "power_source",
    "nvmlDeviceGetAccountingMode": "accounting_mode",
    "nvmlDeviceGetMemoryInfo_v2": {
        "total": "memory_total_bytes",
        "used": "memory_used_bytes",
        "reserved": "memory_reserved_bytes",
        "free": "memory_free_bytes",
    },
    "nvmlDeviceGetMemoryInfo": {
        "total": "memory_total_bytes",
        "used": "memory_used_bytes",
        "free": "memory_free_bytes",
    },
    "nvmlDeviceGetBAR1MemoryInfo": {"bar1Total": "bar1_total_bytes", "bar1Used": "bar1_used_bytes"},
    "nvmlDeviceGetUtilizationRates": {"gpu": "utilization_gpu_percent", "memory": "utilization_memory_percent"},
    "nvmlDeviceGetEncoderUtilization": ["encoder_percent"],
    "nvmlDeviceGetDecoderUtilization": ["decoder_percent"],
    "nvmlDeviceGetJpgUtilization": ["jpg_percent"],
    "nvmlDeviceGetOfaUtilization": ["ofa_percent"],
    "nvmlDeviceGetPowerUsage": "power_mw",
    "nvmlDeviceGetPowerManagementMode": "power_management",
    "nvmlDeviceGetPowerManagementLimit": "power_limit_mw",
    "nvmlDeviceGetPowerManagementDefaultLimit": "power_default_limit_mw",
    "nvmlDeviceGetPowerManagementLimitConstraints": ["power_min_limit_mw", "power_max_limit_mw"],
    "nvmlDeviceGetEnforcedPowerLimit": "power_enforced_limit_mw",
    "nvmlDeviceGetTotalEnergyConsumption": "energy_mj",
    "nvmlDeviceGetPerformanceState": "performance_state",
    "nvmlDeviceGetTemperatureV": "temperature_c",
    "nvmlDeviceGetTemperature": "temperature_c",
    "nvmlDeviceGetTemperatureThreshold": "threshold_c.{0}",
    "nvmlDeviceGetMarginTemperature": "margin_c",
    "nvmlDeviceGetNumFans": "fans",
    "nvmlDeviceGetFanSpeed_v2": "fan_percent.{0}",
    "nvmlDeviceGetFanSpeedRPM": "fan_rpm.0",
    "nvmlDeviceGetTargetFanSpeed": "fan_target_percent.{0}",
    "nvmlDeviceGetMinMaxFanSpeed": ["fan_min_percent", "fan_max_percent"],
    "nvmlDeviceGetClockInfo": "clock_{0:clock}_mhz",
    "nvmlDeviceGetMaxClockInfo": "max_clock_{0:clock}_mhz",
    "nvmlDeviceGetApplicationsClock": "app_clock_{0:clock}_mhz",
    "nvmlDeviceGetDefaultApplicationsClock": "default_app_clock_{0:clock}_mhz",
    "nvmlDeviceGetMaxCustomerBoostClock": "boost_clock_{0:clock}_mhz",
    "nvmlDeviceGetCurrentClocksEventReasons": "clock_reasons",
    "nvmlDeviceGetSupportedClocksEventReasons": "clock_reasons_supported",
    "nvmlDeviceGetViolationStatus": {"violationTime": "violation_ns.{0}"},
    "nvmlDeviceGetEccMode": ["ecc_current", "ecc_pending"],
    "nvmlDeviceGetTotalEccErrors": "{0:ecc}",
    "nvmlDeviceGetMemoryErrorCounter": "{0:ecc}.{2}",
    "nvmlDeviceGetRetiredPagesPendingStatus": "retired_pending",
    "nvmlDeviceGetRemappedRows": ["remapped_corrected", "remapped_uncorrected", "remap_pending", "remap_failed"],
    "nvmlDeviceGetRowRemapperHistogram": {
        name: f"remap_histogram.{index}" for index, name in enumerate(("max", "high", "partial", "low", "none"))
    },
    "nvmlDeviceGetCurrPcieLinkGeneration": "pcie_generation",
    "nvmlDeviceGetCurrPcieLinkWidth": "pcie_width",
    "nvmlDeviceGetMaxPcieLinkGeneration": "pcie_max_generation",
    "nvmlDeviceGetGpuMaxPcieLinkGeneration": "pcie_gpu_max_generation",
    "nvmlDeviceGetMaxPcieLinkWidth": "pcie_max_width",
    "nvmlDeviceGetPcieReplayCounter": "pcie_replays",
    "nvmlDeviceGetPcieSpeed": "pcie_speed_mbps",
    "nvmlDeviceGetPcieLinkMaxSpeed": "pcie_max_speed",
    "nvmlDeviceGetNvLinkState": "nvlink_state.{0}",
    "nvmlDeviceGetNvLinkVersion": "nvlink_version.{0}",
    "nvmlDeviceGetSupportedEventTypes": "event_types",
    "nvmlDeviceGetMigMode": ["mig_mode", "mig_pending"],
    "nvmlDeviceGetMaxMigDeviceCount": "mig_max_devices",
    "nvmlDeviceGetGpuInstanceId": "gpu_instance_id",
    "nvmlDeviceGetComputeInstanceId": "compute_instance_id",
    "nvmlDeviceGetAttributes_v2": ATTRIBUTES,
    "nvmlGpmQueryDeviceSupport": {"isSupportedDevice": "gpm_support"},
    "nvmlGpmQueryIfStreamingEnabled": "gpm_streaming",
}
PROCESSES: Final = {
    "nvmlDeviceGetComputeRunningProcesses_v3": "compute",
    "nvmlDeviceGetGraphicsRunningProcesses_v3": "graphics",
    "nvmlDeviceGetMPSComputeRunningProcesses_v3": "mps",
}
# Functions that answer for many keys, and what is to fail when they do.
WITH_PARTS: Final = {
    "nvmlDeviceGetFieldValues": "nvmlDeviceGetFieldValues",
    "nvmlGpmMetricsGet": "nvmlGpm*SampleGet",
    **{function: function for function in PROCESSES},
}


def min_max_fan_speed(handle: Any) -> list[int]:
    """Return the least and the highest speed of fans, in percent; the oldest pynvml wants places for them."""
    try:
        return list(pynvml.nvmlDeviceGetMinMaxFanSpeed(handle))
    except TypeError:
        least, highest = ctypes.c_uint(), ctypes.c_uint()
        pynvml.nvmlDeviceGetMinMaxFanSpeed(handle, ctypes.byref(least), ctypes.byref(highest))
        return [least.value, highest.value]


# Where pynvml's function is not called like NVML's symbol.
WRAPPERS: Final[Mapping[str, Callable[..., Any]]] = {
    "nvmlDeviceGetMemoryInfo_v2": lambda handle: pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2),
    "nvmlDeviceGetMinMaxFanSpeed": min_max_fan_speed,
}
# What an older driver is asked, and what it says only if it cannot say the newer.
OLDER: Final = {
    "nvmlDeviceGetTemperature": "nvmlDeviceGetTemperatureV",
    "nvmlDeviceGetMemoryInfo": "nvmlDeviceGetMemoryInfo_v2",
}
# The arguments that are tried, of functions that have some; others have none.
ARGUMENTS: Final[Mapping[str, Sequence[tuple[int, ...]]]] = {
    "nvmlDeviceGetTemperatureV": [(0,)],
    "nvmlDeviceGetTemperature": [(0,)],
    "nvmlDeviceGetTemperatureThreshold": [(which,) for which in range(8)],
    "nvmlDeviceGetFanSpeed_v2": [(0,), (1,)],
    "nvmlDeviceGetTargetFanSpeed": [(0,), (1,)],
    **{function: [(which,) for which in CLOCKS] for function, key in KEYS.items() if "{0:clock}" in key},
    "nvmlDeviceGetViolationStatus": [(which,) for which in (*range(6), 10, 11)],
    "nvmlDeviceGetTotalEccErrors": list(ECC),
    "nvmlDeviceGetMemoryErrorCounter": [(*which, place) for which in ECC for place in range(8)],
    "nvmlDeviceGetNvLinkState": [(link,) for link in range(18)],
    "nvmlDeviceGetNvLinkVersion": [(link,) for link in range(18)],
}
FIELDS: Final[Sequence[tuple[int, int]]] = [
    *((field, 0) for field in (*range(1, 32), *range(74, 84), 91, 94, *range(142, 146), *range(185, 199), 230)),
    *((field, 0) for field in range(269, 272)),
    *((field, ALL_LINKS) for field in (138, 139)),
]
METRICS: Final = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 20, 21, 60, 61)


# ---------------------------------------------------------------------------------------------------------- recording


def record(rounds: int = 1, pause_s: float = 0.0) -> dict[str, Any]:
    """Ask the library in this process everything that a scenario can say; NVML must be initialised.

    Args:
        rounds: How often.
        pause_s: Seconds between two rounds, and at least between the two samples of GPM.
    """
    functions = [*KEYS, CAPABILITY, *PROCESSES]
    of_host = [function for function in functions if function.startswith("nvmlSystem")]
    calls = [ask(function) for function in of_host]
    start = time.monotonic()
    for round_number in range(rounds):
        time.sleep(pause_s if round_number else 0)
        t_s = round(time.monotonic() - start, 6)
        for device, handle in handles():
            found = [
                ask(function, handle, arguments)
                for function in functions
                if function not in of_host
                for arguments in ARGUMENTS.get(function, [()])
            ]
            found.append({"function": "nvmlDeviceGetFieldValues", **fields_of(handle)})
            found.append({"function": "nvmlGpmMetricsGet", **activity_of(device, handle, pause_s)})
            calls += [{**call, "device": device, "t_s": t_s} for call in found]
    return {"format": FORMAT, "calls": calls}


def ask(function: str, handle: Any = None, arguments: tuple[int, ...] = ()) -> dict[str, Any]:
    """Return one call and what came of it."""
    call: dict[str, Any] = {"function": function, **({"arguments": list(arguments)} if arguments else {})}
    ask_for = WRAPPERS.get(function) or getattr(pynvml, function, None)
    if ask_for is None:  # a pynvml that is older than the function
        return {**call, "error": FUNCTION_NOT_FOUND}
    try:
        return {**call, "result": plain(ask_for(*([] if handle is None else [handle]), *arguments))}
    except pynvml.NVMLError as error:
        return {**call, "error": int(error.value)}
    except TypeError:  # and one that wants other arguments
        return {**call, "error": FUNCTION_NOT_FOUND}


def handles() -> Iterable[tuple[str, Any]]:
    """Yield every device that can be had, with its name in a dump."""
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
        except pynvml.NVMLError:
            continue
        yield str(index), gpu
        try:
            most = pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu)
        except pynvml.NVMLError:
            continue
        for number in range(most):
            try:
                yield f"{index}.{number}", pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, number)
            except pynvml.NVMLError:
                continue


def plain(result: Any) -> Any:
    """Return what pynvml gave as what JSON has."""
    if isinstance(result, bytes):
        return result.decode(errors="replace")
    if isinstance(result, (list, tuple)):
        return [plain(each) for each in result]
    if hasattr(result, "_fields_"):
        return {name: plain(getattr(result, name)) for name, *_ in result._fields_}
    if hasattr(result, "__dict__"):
        return {name: plain(each) for name, each in vars(result).items()}
    return result


def fields_of(handle: Any) -> dict[str, Any]:
    """Return the values of all fields."""
    try:
        values = pynvml.nvmlDeviceGetFieldValues(handle, FIELDS)
    except pynvml.NVMLError as error:
        return {"error": int(error.value)}
    found: list[dict[str, Any]] = []
    for value in values:
        each: dict[str, Any] = {"field": value.fieldId, "scope": value.scopeId}
        if value.nvmlReturn:
            found.append({**each, "error": value.nvmlReturn})
        else:
            member = getattr(value.value, MEMBERS[value.valueType])
            found.append({**each, "type": value.valueType, "value": member})
    return {"result": found}


def activity_of(device: str, handle: Any, pause_s: float) -> dict[str, Any]:
    """Return the metrics of GPM between two samples."""
    taken: list[Any] = []
    try:
        if not pynvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice:
            return {"error": NOT_SUPPORTED}
        take = functools.partial(pynvml.nvmlGpmSampleGet, handle)
        if "." in device:
            gpu = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
            take = functools.partial(pynvml.nvmlGpmMigSampleGet, gpu, pynvml.nvmlDeviceGetGpuInstanceId(handle))
        request = pynvml.c_nvmlGpmMetricsGet_t()
        for sample in range(2):
            taken.append(pynvml.nvmlGpmSampleAlloc())
            time.sleep(max(pause_s, 0.1) if sample else 0)
            take(taken[-1])
        request.version, request.numMetrics = pynvml.NVML_GPM_METRICS_GET_VERSION, len(METRICS)
        request.sample1, request.sample2 = taken
        for index, metric in enumerate(METRICS):
            request.metrics[index].metricId = metric
        pynvml.nvmlGpmMetricsGet(request)
    except pynvml.NVMLError as error:
        return {"error": int(error.value)}
    finally:
        for sample in taken:
            pynvml.nvmlGpmSampleFree(sample)
    metrics = [request.metrics[index] for index in range(len(METRICS))]
    return {
        "result": [
            {"metric": each.metricId, **({"error": each.nvmlReturn} if each.nvmlReturn else {"value": each.value})}
            for each in metrics
        ]
    }


# ---------------------------------------------------------------------------------------------------------- replaying


def scenario(dump: Dump) -> str:
    """Return the scenario under which the stub answers as the dump says.

    Args:
        dump: See the module.

    Raises:
        ValueError: It is no dump, or of another version.
    """
    if dump.get("format") != FORMAT:
        raise ValueError(f"format={dump.get('format')!r} is not a dump of NVML; accepted: {FORMAT!r}")
    series: dict[tuple[str, str], list[str]] = {}
    processes: dict[tuple[str, str], list[str]] = {}
    errors: dict[str, None] = {}
    devices: set[str] = set()
    calls = dump["calls"]
    known = {(call.get("device"), call["function"]) for call in calls if "result" in call}
    missing = {call["function"] for call in calls if call.get("error") == FUNCTION_NOT_FOUND}
    for call in calls:
        device, function = call.get("device"), call["function"]
        if device is not None:
            devices.add(device)
        if function in missing or (device, OLDER.get(function)) in known:
            continue
        if function in PROCESSES and "." not in device:
            processes[device, function] = process_lines(call)
        if function in WITH_PARTS and call.get("error", NOT_SUPPORTED) != NOT_SUPPORTED:
            errors[f"error {WITH_PARTS[function]}@{device} {call['error']}"] = None
        for key, answer in answers(call).items():
            series.setdefault((target(device), key), []).append(answer)
    for device, function in known:
        if function == "nvmlDeviceGetNvLinkState" and device is not None:
            series[target(device), "nvlink_links"] = [str(len(ARGUMENTS[function]))]
    gpus = 1 + max((int(device.partition(".")[0]) for device in devices), default=-1)
    lines = ["# Made from a dump of a machine.", f"gpus = {gpus}"]
    lines += [f"system without = {', '.join(sorted(missing))}"] if missing else []
    lines += [f"{where} {key} = {in_turn(found)}" for (where, key), found in series.items()]
    lines += [line for found in processes.values() for line in found]
    return "\n".join((*lines, *errors, ""))


def target(device: str | None) -> str:
    """Return how a scenario calls a device of a dump."""
    return "system" if device is None else f"mig {device}" if "." in device else f"gpu {device}"


def answers(call: Call) -> Answers:
    """Return what a call says, by key."""
    function, result = call["function"], call.get("result")
    if function == CAPABILITY:
        return {} if result is None else {"compute_capability": ".".join(map(str, result))}
    if function == "nvmlDeviceGetFieldValues":
        return dict(field_answer(each) for each in result or ())
    if function == "nvmlGpmMetricsGet":
        return {f"gpm.{each['metric']}": error_or(each, str(each.get("value"))) for each in result or ()}
    keys = KEYS.get(function)
    if keys is None:
        return {}
    arguments = call.get("arguments", [])
    if isinstance(keys, str):
        return {filled(keys, arguments): error_or(call, str(result))}
    if isinstance(keys, Mapping):
        return {
            filled(key, arguments): error_or(call, str((result or {}).get(part, "!UNKNOWN")))
            for part, key in keys.items()
        }
    return {
        filled(key, arguments): error_or(call, str(result[index]) if result else "!UNKNOWN")
        for index, key in enumerate(keys)
    }


def filled(key: str, arguments: Sequence[int]) -> str:
    """Return a key with the arguments in it."""
    if "{0:clock}" in key:
        return key.replace("{0:clock}", CLOCKS[arguments[0]])
    if "{0:ecc}" in key:
        key = key.replace("{0:ecc}", ECC[arguments[0], arguments[1]])
    return key.format(*arguments)


def error_or(call: Call, answer: str) -> str:
    """Return the error of a call if it has one, else the answer."""
    return f"!{call['error']}" if "error" in call else answer


def field_answer(field: Call) -> tuple[str, str]:
    """Return the key and the value of a field, with its type."""
    scope = f".{field['scope']}" if field["scope"] else ""
    return f"field.{field['field']}{scope}", error_or(field, f"{TYPES[field.get('type', 0)]}: {field.get('value')}")


def in_turn(found: Sequence[str]) -> str:
    """Return one value for all answers of a call: the one, or a list."""
    if len(set(found)) == 1:
        return found[0]
    kind, plain_values = "", list(found)
    for index, each in enumerate(found):
        prefix, colon, rest = each.partition(": ")
        if colon:
            kind, plain_values[index] = f"{prefix}: ", rest
    return f"{kind}list({', '.join(plain_values)})"


def process_lines(call: Call) -> list[str]:
    """Return the processes of a GPU."""
    lines = []
    for each in call.get("result") or ():
        used = "none" if each["usedGpuMemory"] is None else each["usedGpuMemory"]
        ids = [
            f"{name}={each[part]}"
            for name, part in (("gi", "gpuInstanceId"), ("ci", "computeInstanceId"))
            if each[part] != ALL_LINKS
        ]
        lines.append(
            " ".join(["process", call["device"], PROCESSES[call["function"]], str(each["pid"]), str(used), *ids])
        )
    return lines

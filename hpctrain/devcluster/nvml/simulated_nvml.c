/* A libnvidia-ml.so.1 for machines without a GPU: it answers NVML calls from a text file.
 *
 * The file is named by HPCTRAIN_SIMULATED_GPUS, or is "gpus.state" beside this library. It is read once, by nvmlInit.
 * Each line is "key value"; what follows '#' at the start of a line is a remark. Keys of GPU 3 begin with "gpu.3.".
 *     gpus 8                       how many GPUs nvmlDeviceGetCount counts
 *     gpu.3.temperature_c 41       a value
 *     gpu.3.temperature_c !999     this call returns the NVML error 999
 *     gpu.3.temperature_c !hang    this call never returns
 *     gpu.3.temperature_c !sleep:2 this call takes 2 s, and is then not supported
 *     gpu.3.handle !15             the GPU cannot be opened
 *     gpu.3.all !15                every call on the GPU, once opened, returns the error
 *     init !18                     nvmlInit returns the error (18: driver/library version mismatch)
 * A key that is absent makes its call return NOT_SUPPORTED, as on a card without that feature.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
       DRIVER_NOT_LOADED = 9, VERSION_MISMATCH = 25 };

typedef int ret;
typedef void *device;
typedef unsigned long long u64;

static char *text;
static char **keys;
static size_t lines;

static int compare(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* Key and value share one string, "key\0value", so that sorting the keys keeps the values with them. */
static const char *find(const char *key)
{
    char *const *hit = lines ? bsearch(&key, keys, lines, sizeof *keys, compare) : NULL;
    return hit ? *hit + strlen(*hit) + 1 : NULL;
}

static void wait_for_ever(void)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    for (;;)
        pause();
}

/* "!..." is an error to return; OK means that the value is one. */
static ret error_of(const char *value)
{
    if (!value)
        return NOT_SUPPORTED;
    if (value[0] != '!')
        return OK;
    if (!strcmp(value, "!hang"))
        wait_for_ever();
    if (!strncmp(value, "!sleep:", 7)) {
        usleep((useconds_t)(atof(value + 7) * 1e6));
        return NOT_SUPPORTED;
    }
    return atoi(value + 1);
}

static const char *state_path(void)
{
    static char path[PATH_MAX];
    const char *named = getenv("HPCTRAIN_SIMULATED_GPUS");
    Dl_info self;
    if (named && *named)
        return named;
    if (!dladdr((void *)state_path, &self) || !self.dli_fname)
        return "gpus.state";
    const char *slash = strrchr(self.dli_fname, '/');
    snprintf(path, sizeof path, "%.*sgpus.state", slash ? (int)(slash - self.dli_fname + 1) : 0, self.dli_fname);
    return path;
}

static char *read_all(const char *path)
{
    FILE *file = fopen(path, "re");
    size_t have = 0, room = 65536;
    char *buffer = file ? malloc(room + 1) : NULL;
    if (!buffer) {
        if (file)
            fclose(file);
        return NULL;
    }
    for (size_t got; (got = fread(buffer + have, 1, room - have, file)) > 0;) {
        have += got;
        if (have == room) {
            char *more = realloc(buffer, (room *= 2) + 1);
            if (!more)
                break;
            buffer = more;
        }
    }
    fclose(file);
    buffer[have] = 0;
    return buffer;
}

static ret load(void)
{
    free(text);
    free(keys);
    lines = 0;
    keys = NULL;
    if (!(text = read_all(state_path())))
        return DRIVER_NOT_LOADED;
    size_t room = 1;
    for (char *c = text; *c; c++)
        room += *c == '\n';
    if (!(keys = calloc(room, sizeof *keys)))
        return DRIVER_NOT_LOADED;
    char *rest = text, *line;
    while ((line = strsep(&rest, "\n"))) {
        char *blank = strchr(line, ' ');
        if (line[0] == '#' || !blank)
            continue;
        *blank = 0;
        keys[lines++] = line;
    }
    qsort(keys, lines, sizeof *keys, compare);
    return OK;
}

static ret global(const char *key, const char **value)
{
    if (!text)
        return UNINITIALIZED;
    *value = find(key);
    return error_of(*value);
}

static ret of_gpu(device gpu, const char *key, const char **value)
{
    char name[128];
    if (!text)
        return UNINITIALIZED;
    if (!gpu)
        return INVALID_ARGUMENT;
    snprintf(name, sizeof name, "gpu.%d.all", (int)(intptr_t)gpu - 1);
    const char *all = find(name);
    if (all && error_of(all))
        return error_of(all);
    snprintf(name, sizeof name, "gpu.%d.%s", (int)(intptr_t)gpu - 1, key);
    *value = find(name);
    return error_of(*value);
}

static ret number(device gpu, const char *key, u64 *out)
{
    const char *value;
    ret r = of_gpu(gpu, key, &value);
    if (r == OK)
        *out = value[0] == '-' ? (u64)strtoll(value, NULL, 0) : strtoull(value, NULL, 0);
    return r;
}

static ret narrow(device gpu, const char *key, unsigned *out)
{
    u64 wide = 0;
    ret r = number(gpu, key, &wide);
    if (r == OK)
        *out = (unsigned)wide;
    return r;
}

static ret copy(const char *value, char *out, unsigned size)
{
    if (strlen(value) >= size)
        return INSUFFICIENT_SIZE;
    strcpy(out, value);
    return OK;
}

static ret words(device gpu, const char *key, char *out, unsigned size)
{
    const char *value;
    ret r = of_gpu(gpu, key, &value);
    return r ? r : copy(value, out, size);
}

/* ------------------------------------------------------------------ the library and the system */

ret nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    ret r = load();
    const char *value = r ? NULL : find("init");
    if (r || !value)
        return r;
    return error_of(value);
}
ret nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
ret nvmlShutdown(void) { return text ? OK : UNINITIALIZED; }
const char *nvmlErrorString(ret r) { return r ? "simulated error" : "success"; }

static ret system_text(const char *key, char *out, unsigned size)
{
    const char *value;
    ret r = global(key, &value);
    return r ? r : copy(value, out, size);
}
ret nvmlSystemGetDriverVersion(char *out, unsigned size) { return system_text("driver_version", out, size); }
ret nvmlSystemGetNVMLVersion(char *out, unsigned size) { return system_text("nvml_version", out, size); }

static ret system_number(const char *key, unsigned *out)
{
    const char *value;
    ret r = global(key, &value);
    if (r == OK)
        *out = (unsigned)strtoul(value, NULL, 0);
    return r;
}
ret nvmlSystemGetCudaDriverVersion(int *out) { return system_number("cuda_version", (unsigned *)out); }
ret nvmlSystemGetCudaDriverVersion_v2(int *out) { return system_number("cuda_version", (unsigned *)out); }
ret nvmlDeviceGetCount_v2(unsigned *out) { return system_number("gpus", out); }

ret nvmlDeviceGetHandleByIndex_v2(unsigned index, device *out)
{
    unsigned count = 0;
    char name[64];
    ret r = nvmlDeviceGetCount_v2(&count);
    if (r)
        return r;
    if (index >= count)
        return INVALID_ARGUMENT;
    snprintf(name, sizeof name, "gpu.%u.handle", index);
    const char *value = find(name);
    if (value && (r = error_of(value)))
        return r;
    *out = (device)(intptr_t)(index + 1);
    return OK;
}

/* ------------------------------------------------------------------ one number or text each */

#define NUMBER(function, key) ret function(device gpu, unsigned *out) { return narrow(gpu, key, out); }
NUMBER(nvmlDeviceGetMinorNumber, "minor")
NUMBER(nvmlDeviceGetPersistenceMode, "persistence")
NUMBER(nvmlDeviceGetComputeMode, "compute_mode")
NUMBER(nvmlDeviceGetRetiredPagesPendingStatus, "retired_pending")
NUMBER(nvmlDeviceGetPowerUsage, "power_mw")
NUMBER(nvmlDeviceGetEnforcedPowerLimit, "power_limit_mw")
NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, "power_limit_default_mw")
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, "pcie_width")
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, "pcie_width_max")
NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, "pcie_generation")
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, "pcie_generation_max")
NUMBER(nvmlDeviceGetPcieReplayCounter, "pcie_replays")

#define TEXT(function, key) ret function(device gpu, char *out, unsigned size) { return words(gpu, key, out, size); }
TEXT(nvmlDeviceGetUUID, "uuid")
TEXT(nvmlDeviceGetName, "name")
TEXT(nvmlDeviceGetSerial, "serial")
TEXT(nvmlDeviceGetVbiosVersion, "vbios")
TEXT(nvmlDeviceGetInforomImageVersion, "inforom")
ret nvmlDeviceGetGspFirmwareVersion(device gpu, char *out) { return words(gpu, "gsp_firmware", out, 64); }
ret nvmlDeviceValidateInforom(device gpu) { u64 unused; return number(gpu, "inforom_valid", &unused); }

ret nvmlDeviceGetCurrentClocksEventReasons(device gpu, u64 *out) { return number(gpu, "clock_reasons", out); }
ret nvmlDeviceGetCurrentClocksThrottleReasons(device gpu, u64 *out) { return number(gpu, "clock_reasons", out); }

static ret clocks(device gpu, int type, const char *sm, const char *memory, unsigned *out)
{
    return type == 1 || type == 0 ? narrow(gpu, sm, out) : type == 2 ? narrow(gpu, memory, out) : NOT_SUPPORTED;
}
ret nvmlDeviceGetClockInfo(device gpu, int type, unsigned *out)
{
    return clocks(gpu, type, "clock_sm_mhz", "clock_memory_mhz", out);
}
ret nvmlDeviceGetMaxClockInfo(device gpu, int type, unsigned *out)
{
    return clocks(gpu, type, "clock_sm_max_mhz", "clock_memory_max_mhz", out);
}
ret nvmlDeviceGetApplicationsClock(device gpu, int type, unsigned *out)
{
    return clocks(gpu, type, "clock_sm_limit_mhz", "clock_memory_limit_mhz", out);
}

ret nvmlDeviceGetTemperature(device gpu, int sensor, unsigned *out)
{
    return sensor ? INVALID_ARGUMENT : narrow(gpu, "temperature_c", out);
}
ret nvmlDeviceGetTemperatureThreshold(device gpu, int threshold, unsigned *out)
{
    return threshold == 1 ? narrow(gpu, "temperature_slowdown_c", out) : NOT_SUPPORTED;
}

static ret pair(device gpu, const char *now, const char *later, unsigned *out_now, unsigned *out_later)
{
    ret r = narrow(gpu, now, out_now);
    if (r == OK && narrow(gpu, later, out_later))
        *out_later = *out_now;
    return r;
}
ret nvmlDeviceGetEccMode(device gpu, unsigned *now, unsigned *later)
{
    return pair(gpu, "ecc_mode", "ecc_mode_pending", now, later);
}
ret nvmlDeviceGetMigMode(device gpu, unsigned *now, unsigned *later)
{
    return pair(gpu, "mig_mode", "mig_mode_pending", now, later);
}

ret nvmlDeviceGetTotalEccErrors(device gpu, int uncorrected, int aggregate, u64 *out)
{
    char key[64];
    snprintf(key, sizeof key, "ecc_%s_%s", aggregate ? "aggregate" : "volatile", uncorrected ? "uncorrected" : "corrected");
    return number(gpu, key, out);
}

/* ------------------------------------------------------------------ structures */

struct pci { char legacy[16]; unsigned domain, bus, slot, id, subsystem; char address[32]; };
ret nvmlDeviceGetPciInfo_v3(device gpu, struct pci *out)
{
    memset(out, 0, sizeof *out);
    return words(gpu, "pci_bus", out->address, sizeof out->address);
}

struct memory { u64 total, free, used; };
ret nvmlDeviceGetMemoryInfo(device gpu, struct memory *out)
{
    ret r = number(gpu, "memory_total_bytes", &out->total);
    if (!r)
        r = number(gpu, "memory_used_bytes", &out->used);
    out->free = out->total - out->used;
    return r;
}
struct memory_v2 { unsigned version; u64 total, reserved, free, used; };
ret nvmlDeviceGetMemoryInfo_v2(device gpu, struct memory_v2 *out)
{
    ret r = number(gpu, "memory_total_bytes", &out->total);
    if (!r)
        r = number(gpu, "memory_used_bytes", &out->used);
    if (!r)
        r = number(gpu, "memory_reserved_bytes", &out->reserved);
    out->free = out->total - out->reserved - out->used;
    return r;
}

struct utilization { unsigned gpu, memory; };
ret nvmlDeviceGetUtilizationRates(device gpu, struct utilization *out)
{
    out->memory = 0;
    return narrow(gpu, "utilization_percent", &out->gpu);
}

ret nvmlDeviceGetRemappedRows(device gpu, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failed)
{
    ret r = narrow(gpu, "remapped_corrected", corrected);
    if (!r)
        r = narrow(gpu, "remapped_uncorrected", uncorrected);
    if (!r)
        r = narrow(gpu, "remap_pending", pending);
    return r ? r : narrow(gpu, "remap_failed", failed);
}
struct histogram { unsigned max, high, partial, low, none; };
ret nvmlDeviceGetRowRemapperHistogram(device gpu, struct histogram *out)
{
    memset(out, 0, sizeof *out);
    return narrow(gpu, "remap_banks_without_spares", &out->none);
}
ret nvmlDeviceGetRetiredPages(device gpu, int cause, unsigned *count, u64 *addresses)
{
    unsigned have = 0;
    ret r = narrow(gpu, cause ? "retired_double_bit" : "retired_single_bit", &have);
    if (r)
        return r;
    if (!addresses || *count < have) {
        r = have ? INSUFFICIENT_SIZE : OK;
        *count = have;
        return r;
    }
    for (unsigned i = 0; i < have; i++)
        addresses[i] = 4096ull * i;
    *count = have;
    return OK;
}

struct sram {
    unsigned version;
    u64 aggregate_parity, aggregate_secded, aggregate_corrected, volatile_parity, volatile_secded, volatile_corrected, bucket[5];
    unsigned exceeded;
};
ret nvmlDeviceGetSramEccErrorStatus(device gpu, struct sram *out)
{
    unsigned version = out->version;
    memset(out, 0, sizeof *out);
    out->version = version;
    ret r = narrow(gpu, "sram_threshold_exceeded", &out->exceeded);
    return r ? r : number(gpu, "sram_aggregate_uncorrected", &out->aggregate_secded);
}

struct margin { unsigned version; int margin; };
ret nvmlDeviceGetMarginTemperature(device gpu, struct margin *out) { return narrow(gpu, "margin_c", (unsigned *)&out->margin); }

struct repair { unsigned version, channel, tpc; };
ret nvmlDeviceGetRepairStatus(device gpu, struct repair *out)
{
    ret r = narrow(gpu, "channel_repair_pending", &out->channel);
    return r ? r : narrow(gpu, "tpc_repair_pending", &out->tpc);
}
struct unrepairable { unsigned version, flag; };
ret nvmlDeviceGetUnrepairableMemoryFlag_v1(device gpu, struct unrepairable *out)
{
    return narrow(gpu, "memory_unrepairable", &out->flag);
}

struct fabric { unsigned version; unsigned char cluster[16]; unsigned status, clique, state, mask; };
ret nvmlDeviceGetGpuFabricInfoV(device gpu, struct fabric *out)
{
    if (out->version != 0x02000024)
        return VERSION_MISMATCH;
    ret r = narrow(gpu, "fabric_state", &out->state);
    if (r)
        return r;
    out->status = out->mask = out->clique = 0;
    narrow(gpu, "fabric_status", &out->status);
    narrow(gpu, "fabric_health_mask", &out->mask);
    return OK;
}

ret nvmlDeviceGetNvLinkState(device gpu, unsigned link, unsigned *active)
{
    char key[32];
    snprintf(key, sizeof key, "nvlink.%u", link);
    return narrow(gpu, key, active);
}

struct process { unsigned pid; u64 memory; unsigned gpu_instance, compute_instance; };
ret nvmlDeviceGetComputeRunningProcesses_v3(device gpu, unsigned *count, struct process *out)
{
    unsigned have = 0;
    char key[32];
    const char *value;
    ret r = of_gpu(gpu, "uuid", &value);
    if (r)
        return r;
    for (;; have++) {
        snprintf(key, sizeof key, "process.%u", have);
        r = of_gpu(gpu, key, &value);
        if (r == NOT_SUPPORTED)
            break;
        if (r)
            return r;
        if (out && have < *count) {
            memset(&out[have], 0, sizeof *out);
            sscanf(value, "%u %llu", &out[have].pid, &out[have].memory);
        }
    }
    r = have > (out ? *count : 0) ? INSUFFICIENT_SIZE : OK;
    *count = have;
    return r;
}

struct field { uint32_t id, scope; int64_t time, latency; unsigned type; ret r; union { unsigned narrow; u64 wide; } value; };
ret nvmlDeviceGetFieldValues(device gpu, int count, struct field *fields)
{
    const char *value;
    ret r = of_gpu(gpu, "uuid", &value);
    if (r)
        return r;
    for (int i = 0; i < count; i++) {
        char key[48];
        snprintf(key, sizeof key, "field.%u", fields[i].id);
        fields[i].type = 3; /* unsigned long long */
        fields[i].value.wide = 0;
        fields[i].r = number(gpu, key, &fields[i].value.wide);
    }
    return OK;
}

/*
 * A libnvidia-ml.so.1 without a GPU: it answers what a scenario file says. tests/gpu/stub/__init__.py builds it,
 * and describes the file.
 *
 * NVML_STUB_SCENARIO   the file; read again as soon as it changed, also in the middle of a hang. Unset: no library.
 * NVML_STUB_CALLS      where to count calls, in memory shared by all processes that name the same file.
 * NVML_STUB_RELOAD_MS  look at the file at most this often (0: at every call).
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MAX_GPUS = 32, MAX_MIG = 8, SLOTS = MAX_GPUS * (MAX_MIG + 1) };
enum { MAX_FIELD = 512, MAX_GPM = 477, MAX_EVENTS = 1024, BUCKETS = 512, MAX_ITEMS = 4096, MAX_LINE = 65536 };

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    TIMEOUT = 10,
    LIBRARY_NOT_FOUND = 12,
    GPU_IS_LOST = 15,
    ARGUMENT_VERSION_MISMATCH = 25,
    UNKNOWN = 999,
};

static const struct {
    int code;
    const char *name, *text;
} ERRORS[] = {
    {0, "SUCCESS", "Success"},
    {1, "UNINITIALIZED", "Uninitialized"},
    {2, "INVALID_ARGUMENT", "Invalid Argument"},
    {3, "NOT_SUPPORTED", "Not Supported"},
    {4, "NO_PERMISSION", "Insufficient Permissions"},
    {5, "ALREADY_INITIALIZED", "Already Initialized"},
    {6, "NOT_FOUND", "Not Found"},
    {7, "INSUFFICIENT_SIZE", "Insufficient Size"},
    {8, "INSUFFICIENT_POWER", "Insufficient External Power"},
    {9, "DRIVER_NOT_LOADED", "Driver Not Loaded"},
    {10, "TIMEOUT", "Timeout"},
    {11, "IRQ_ISSUE", "Interrupt Request Issue"},
    {12, "LIBRARY_NOT_FOUND", "NVML Shared Library Not Found"},
    {13, "FUNCTION_NOT_FOUND", "Function Not Found"},
    {14, "CORRUPTED_INFOROM", "Corrupted infoROM"},
    {15, "GPU_IS_LOST", "GPU is lost"},
    {16, "RESET_REQUIRED", "GPU requires reset"},
    {17, "OPERATING_SYSTEM", "The operating system has blocked the request"},
    {18, "LIB_RM_VERSION_MISMATCH", "Driver/library version mismatch"},
    {19, "IN_USE", "In use by another client"},
    {20, "MEMORY", "Insufficient Memory"},
    {21, "NO_DATA", "No data"},
    {22, "VGPU_ECC_NOT_SUPPORTED", "The requested vgpu operation is not available on target device"},
    {23, "INSUFFICIENT_RESOURCES", "Ran out of critical resources, other than memory"},
    {24, "FREQ_NOT_SUPPORTED", "Frequency not supported"},
    {25, "ARGUMENT_VERSION_MISMATCH", "Version mismatch"},
    {26, "DEPRECATED", "Deprecated"},
    {27, "NOT_READY", "Not ready"},
    {28, "GPU_NOT_FOUND", "No GPUs were found"},
    {29, "INVALID_STATE", "Invalid state"},
    {999, "UNKNOWN", "Unknown Error"},
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* Every key that a scenario may give, without the numbers after a dot: a misspelt one is refused. */
static const char *const KEYS[] = {
    "now", "start", "fork_safe", "without", "driver_version", "nvml_version", "cuda_version",
    "name", "uuid", "serial", "part_number", "vbios_version", "minor_number", "board_id", "multi_gpu_board", "brand",
    "architecture", "compute_capability", "pci_bus_id", "pci_device_id", "pci_subsystem_id", "cores",
    "memory_bus_width",
    "persistence_mode", "compute_mode", "display_active", "display_mode", "power_source", "accounting_mode", "lost",
    "memory_total_bytes", "memory_used_bytes", "memory_free_bytes", "memory_reserved_bytes", "bar1_total_bytes",
    "bar1_used_bytes", "utilization_gpu_percent", "utilization_memory_percent", "encoder_percent", "decoder_percent",
    "jpg_percent", "ofa_percent", "power_mw", "power_instant_mw", "power_average_mw", "power_management",
    "power_limit_mw", "power_enforced_limit_mw", "power_default_limit_mw", "power_min_limit_mw", "power_max_limit_mw",
    "energy_mj", "temperature_c", "memory_temperature_c", "threshold_c", "margin_c", "fans", "fan_percent", "fan_rpm",
    "fan_target_percent", "fan_min_percent", "fan_max_percent", "clock_graphics_mhz", "clock_sm_mhz",
    "clock_memory_mhz", "clock_video_mhz", "max_clock_graphics_mhz", "max_clock_sm_mhz", "max_clock_memory_mhz",
    "max_clock_video_mhz",
    "app_clock_graphics_mhz", "app_clock_sm_mhz", "app_clock_memory_mhz", "app_clock_video_mhz",
    "default_app_clock_graphics_mhz", "default_app_clock_sm_mhz", "default_app_clock_memory_mhz",
    "default_app_clock_video_mhz", "boost_clock_graphics_mhz", "boost_clock_sm_mhz", "boost_clock_memory_mhz",
    "boost_clock_video_mhz", "clock_reasons", "clock_reasons_supported", "violation_ns", "performance_state",
    "ecc_current", "ecc_pending", "ecc_corrected_volatile", "ecc_uncorrected_volatile", "ecc_corrected_aggregate",
    "ecc_uncorrected_aggregate", "retired_pages", "retired_pending", "remapped_corrected", "remapped_uncorrected",
    "remap_pending", "remap_failed", "remap_histogram", "pcie_tx_kb_per_s", "pcie_rx_kb_per_s", "pcie_tx_bytes",
    "pcie_rx_bytes", "pcie_generation", "pcie_width", "pcie_max_generation", "pcie_gpu_max_generation",
    "pcie_max_width", "pcie_speed_mbps", "pcie_max_speed", "pcie_replays", "nvlink_links", "nvlink_state",
    "nvlink_version", "nvlink_capability", "nvlink_errors", "nvlink_tx_kib", "nvlink_rx_kib", "nvlink_device_type",
    "event_types", "mig_mode", "mig_pending", "mig_max_devices", "gpu_instance_id", "compute_instance_id",
    "multiprocessors", "copy_engines", "decoders", "encoders", "jpegs", "ofas", "gpu_slices", "compute_slices",
    "memory_size_mb", "recovery_action", "gpm_support", "gpm_streaming", "gpm", "field",
};

/* ------------------------------------------------------------------------------------------------ functions */

#define FUNCTIONS(X) \
    X(nvmlInit) X(nvmlInit_v2) X(nvmlInitWithFlags) X(nvmlShutdown) X(nvmlErrorString) \
    X(nvmlSystemGetDriverVersion) X(nvmlSystemGetNVMLVersion) X(nvmlSystemGetCudaDriverVersion) \
    X(nvmlSystemGetCudaDriverVersion_v2) X(nvmlSystemGetProcessName) \
    X(nvmlDeviceGetCount) X(nvmlDeviceGetCount_v2) X(nvmlDeviceGetHandleByIndex) X(nvmlDeviceGetHandleByIndex_v2) \
    X(nvmlDeviceGetHandleBySerial) X(nvmlDeviceGetHandleByUUID) X(nvmlDeviceGetHandleByPciBusId) \
    X(nvmlDeviceGetHandleByPciBusId_v2) \
    X(nvmlDeviceGetName) X(nvmlDeviceGetUUID) X(nvmlDeviceGetSerial) X(nvmlDeviceGetBoardPartNumber) \
    X(nvmlDeviceGetVbiosVersion) X(nvmlDeviceGetIndex) X(nvmlDeviceGetMinorNumber) X(nvmlDeviceGetBoardId) \
    X(nvmlDeviceGetMultiGpuBoard) X(nvmlDeviceGetBrand) X(nvmlDeviceGetArchitecture) \
    X(nvmlDeviceGetCudaComputeCapability) X(nvmlDeviceGetPciInfo_v3) X(nvmlDeviceGetNumGpuCores) \
    X(nvmlDeviceGetMemoryBusWidth) \
    X(nvmlDeviceGetPersistenceMode) X(nvmlDeviceGetComputeMode) X(nvmlDeviceGetDisplayActive) \
    X(nvmlDeviceGetDisplayMode) X(nvmlDeviceGetPowerSource) X(nvmlDeviceGetAccountingMode) \
    X(nvmlDeviceGetMemoryInfo) X(nvmlDeviceGetMemoryInfo_v2) X(nvmlDeviceGetBAR1MemoryInfo) \
    X(nvmlDeviceGetUtilizationRates) X(nvmlDeviceGetEncoderUtilization) X(nvmlDeviceGetDecoderUtilization) \
    X(nvmlDeviceGetJpgUtilization) X(nvmlDeviceGetOfaUtilization) \
    X(nvmlDeviceGetPowerUsage) X(nvmlDeviceGetPowerManagementMode) X(nvmlDeviceGetPowerManagementLimit) \
    X(nvmlDeviceGetPowerManagementDefaultLimit) X(nvmlDeviceGetPowerManagementLimitConstraints) \
    X(nvmlDeviceGetEnforcedPowerLimit) X(nvmlDeviceGetTotalEnergyConsumption) X(nvmlDeviceGetPowerState) \
    X(nvmlDeviceGetPerformanceState) \
    X(nvmlDeviceGetTemperature) X(nvmlDeviceGetTemperatureV) X(nvmlDeviceGetTemperatureThreshold) \
    X(nvmlDeviceGetMarginTemperature) X(nvmlDeviceGetNumFans) X(nvmlDeviceGetFanSpeed) X(nvmlDeviceGetFanSpeed_v2) \
    X(nvmlDeviceGetFanSpeedRPM) X(nvmlDeviceGetTargetFanSpeed) X(nvmlDeviceGetMinMaxFanSpeed) \
    X(nvmlDeviceGetClockInfo) X(nvmlDeviceGetMaxClockInfo) X(nvmlDeviceGetClock) X(nvmlDeviceGetApplicationsClock) \
    X(nvmlDeviceGetDefaultApplicationsClock) X(nvmlDeviceGetMaxCustomerBoostClock) \
    X(nvmlDeviceGetCurrentClocksEventReasons) X(nvmlDeviceGetSupportedClocksEventReasons) \
    X(nvmlDeviceGetCurrentClocksThrottleReasons) X(nvmlDeviceGetSupportedClocksThrottleReasons) \
    X(nvmlDeviceGetViolationStatus) \
    X(nvmlDeviceGetEccMode) X(nvmlDeviceGetTotalEccErrors) X(nvmlDeviceGetMemoryErrorCounter) \
    X(nvmlDeviceGetDetailedEccErrors) X(nvmlDeviceGetRetiredPages) X(nvmlDeviceGetRetiredPages_v2) \
    X(nvmlDeviceGetRetiredPagesPendingStatus) X(nvmlDeviceGetRemappedRows) X(nvmlDeviceGetRowRemapperHistogram) \
    X(nvmlDeviceGetPcieThroughput) X(nvmlDeviceGetCurrPcieLinkGeneration) X(nvmlDeviceGetCurrPcieLinkWidth) \
    X(nvmlDeviceGetMaxPcieLinkGeneration) X(nvmlDeviceGetGpuMaxPcieLinkGeneration) X(nvmlDeviceGetMaxPcieLinkWidth) \
    X(nvmlDeviceGetPcieReplayCounter) X(nvmlDeviceGetPcieSpeed) X(nvmlDeviceGetPcieLinkMaxSpeed) \
    X(nvmlDeviceGetNvLinkState) X(nvmlDeviceGetNvLinkVersion) X(nvmlDeviceGetNvLinkCapability) \
    X(nvmlDeviceGetNvLinkErrorCounter) X(nvmlDeviceGetNvLinkUtilizationCounter) \
    X(nvmlDeviceGetNvLinkRemoteDeviceType) \
    X(nvmlDeviceGetComputeRunningProcesses_v2) X(nvmlDeviceGetComputeRunningProcesses_v3) \
    X(nvmlDeviceGetGraphicsRunningProcesses_v2) X(nvmlDeviceGetGraphicsRunningProcesses_v3) \
    X(nvmlDeviceGetMPSComputeRunningProcesses_v2) X(nvmlDeviceGetMPSComputeRunningProcesses_v3) \
    X(nvmlDeviceGetRunningProcessDetailList) X(nvmlDeviceGetProcessUtilization) \
    X(nvmlDeviceGetProcessesUtilizationInfo) \
    X(nvmlDeviceGetSupportedEventTypes) X(nvmlEventSetCreate) X(nvmlDeviceRegisterEvents) X(nvmlEventSetWait_v2) \
    X(nvmlEventSetFree) \
    X(nvmlDeviceGetMigMode) X(nvmlDeviceGetMaxMigDeviceCount) X(nvmlDeviceGetMigDeviceHandleByIndex) \
    X(nvmlDeviceGetDeviceHandleFromMigDeviceHandle) X(nvmlDeviceIsMigDeviceHandle) X(nvmlDeviceGetGpuInstanceId) \
    X(nvmlDeviceGetComputeInstanceId) X(nvmlDeviceGetAttributes_v2) \
    X(nvmlDeviceGetFieldValues) \
    X(nvmlGpmQueryDeviceSupport) X(nvmlGpmQueryIfStreamingEnabled) X(nvmlGpmSampleAlloc) X(nvmlGpmSampleFree) \
    X(nvmlGpmSampleGet) X(nvmlGpmMigSampleGet) X(nvmlGpmMetricsGet) \
    /* What a caller must never do; counted like calls. */ \
    X(misuse_uninitialized) X(misuse_concurrent) X(misuse_shutdown_while_busy) X(misuse_freed)

#define AS_ENUM(name) F_##name,
#define AS_NAME(name) #name,
enum { FUNCTIONS(AS_ENUM) FUNCTION_COUNT };
static const char *const NAMES[] = {FUNCTIONS(AS_NAME)};

/* ------------------------------------------------------------------------------------------------ state */

enum { TYPE_DOUBLE, TYPE_UINT, TYPE_ULONG, TYPE_ULL, TYPE_SLL, TYPE_SINT, TYPE_USHORT, TYPE_DEFAULT };
static const char *const TYPES[] = {"double", "uint", "ulong", "ull", "sll", "sint", "ushort"};

typedef enum { CONSTANT, TEXT, RAMP, LIST, CYCLE, STEPS, LOOP } Kind;

typedef struct {
    long double number;
    int error;
} Item;

/* A list is followed by each function and field for itself. */
typedef struct {
    unsigned reader, reads;
} Position;

typedef struct {
    Kind kind;
    unsigned type, count, positions;
    Position *position;
    long double period;
    Item *items;
    char *text;
} Value;

typedef struct Entry {
    struct Entry *next;
    char *key;
    Value value;
} Entry;

typedef struct {
    int gpu, mig, slot;
    int present;
    Entry *buckets[BUCKETS];
} Device;

typedef struct {
    char *pattern;
    int any, gpu, mig; /* mig: -1 the GPU itself, -2 each instance */
    int error;
    double hang_s;
    uint64_t from, to, every, matched;
} Rule;

typedef struct {
    int gpu; /* -1: each */
    char kind;
    unsigned pid, gi, ci, utilization[4];
    int own, busy;
    Value memory;
} Process;

typedef struct {
    int gpu, mig;
    uint64_t type, data;
    double after_s;
} Event;

typedef struct {
    uint32_t magic;
    uint64_t types[MAX_GPUS];
    double since_s[MAX_GPUS];
    unsigned char delivered[MAX_EVENTS];
} EventSet;

typedef struct {
    uint32_t magic;
    Device *device;
    long double taken_s;
    unsigned order;
} GpmSample;

enum { EVENT_MAGIC = 0x45564e54, GPM_MAGIC = 0x47504d53, FREED_MAGIC = 0x66726565 };

/* The counters' file: this header, the names, then a row of counts for each function and each field. */
typedef struct {
    char magic[8];
    uint32_t functions, fields, columns, name_size;
} CallsHeader;
enum { COLUMN_TOTAL, COLUMN_FINISHED, COLUMN_SLOTS, COLUMNS = COLUMN_SLOTS + SLOTS, NAME_SIZE = 64 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Device gpus[MAX_GPUS], migs[MAX_GPUS][MAX_MIG], host = {.gpu = -1, .mig = -1, .slot = -1, .present = 1};
static int gpu_count, initialized, active, fork_safe, usable;
static Rule *rules;
static Process *processes;
static Event *events;
static unsigned rule_count, process_count, event_count, gpm_order;
static char *scenario_path;
static struct stat scenario_stat;
static double first_load_s, checked_s, reload_every_s;
static long double moment_s = -1; /* a moment in the past for which values are asked */
static double call_s;             /* when this call was first asked what time it is */
static unsigned reader;           /* the function, or FUNCTION_COUNT and the field */
static uint64_t *counts;

static double clock_s(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void pause_s(double seconds) {
    struct timespec time = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&time, NULL);
}

/* ------------------------------------------------------------------------------------------------ counting */

/* Counting goes on where it was, unless another file is named at an initialisation. */
static void open_counters(void) {
    static char *opened;
    size_t size = sizeof(CallsHeader) + FUNCTION_COUNT * NAME_SIZE + (size_t)(FUNCTION_COUNT + MAX_FIELD) * COLUMNS * 8;
    const char *path = getenv("NVML_STUB_CALLS");
    if (counts && (!path || (opened && !strcmp(path, opened))))
        return;
    free(opened);
    opened = path ? strdup(path) : NULL;
    int file = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644) : -1;
    void *memory = MAP_FAILED;
    if (file >= 0 && ftruncate(file, (off_t)size) == 0)
        memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (file >= 0)
        close(file);
    if (memory == MAP_FAILED)
        memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        abort();
    char *names = (char *)memory + sizeof(CallsHeader);
    for (unsigned i = 0; i < FUNCTION_COUNT; i++)
        snprintf(names + i * NAME_SIZE, NAME_SIZE, "%s", NAMES[i]);
    CallsHeader header = {"NVMLCNT", FUNCTION_COUNT, MAX_FIELD, COLUMNS, NAME_SIZE};
    memcpy(memory, &header, sizeof header);
    counts = (uint64_t *)(void *)(names + FUNCTION_COUNT * NAME_SIZE);
}

static void add(unsigned row, int column) {
    __atomic_add_fetch(&counts[(size_t)row * COLUMNS + (size_t)column], 1, __ATOMIC_RELAXED);
}

static void count(unsigned row, const Device *device) {
    add(row, COLUMN_TOTAL);
    if (device && device->slot >= 0)
        add(row, COLUMN_SLOTS + device->slot);
}

/* ------------------------------------------------------------------------------------------------ the scenario */

static void complain(unsigned line, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "nvml_stub: %s:%u: ", scenario_path ? scenario_path : "no scenario", line);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
}

static char *trim(char *text) {
    while (isspace((unsigned char)*text))
        text++;
    char *end = text + strlen(text);
    while (end > text && isspace((unsigned char)end[-1]))
        *--end = 0;
    return text;
}

static int error_code(const char *name) {
    for (size_t i = 0; i < COUNT(ERRORS); i++)
        if (!strcasecmp(name, ERRORS[i].name))
            return ERRORS[i].code;
    char *end;
    long code = strtol(name, &end, 10);
    return end != name && !*end ? (int)code : -1;
}

static int parse_number(const char *text, long double *number) {
    char *end;
    if (!strncmp(text, "0x", 2))
        *number = (long double)strtoull(text, &end, 16);
    else
        *number = strtold(text, &end);
    return end != text && !*end;
}

static int parse_item(char *text, Item *item) {
    text = trim(text);
    item->error = 0;
    if (*text == '!')
        return (item->error = error_code(text + 1)) > 0;
    return parse_number(text, &item->number);
}

static int parse_value(const char *source, Value *value) {
    static const struct {
        const char *name;
        Kind kind;
    } forms[] = {{"ramp(", RAMP}, {"list(", LIST}, {"cycle(", CYCLE}, {"steps(", STEPS}, {"loop(", LOOP}};
    static Item items[MAX_ITEMS];
    memset(value, 0, sizeof *value);
    value->type = TYPE_DEFAULT;
    value->text = strdup(source);
    char *copy = strdup(source), *text = copy;
    for (unsigned i = 0; i < COUNT(TYPES); i++) {
        size_t length = strlen(TYPES[i]);
        if (!strncmp(text, TYPES[i], length) && text[length] == ':') {
            value->type = i;
            text = trim(text + length + 1);
            break;
        }
    }
    int good = 1;
    value->kind = TEXT;
    for (size_t i = 0; i < COUNT(forms) && value->kind == TEXT; i++) {
        size_t length = strlen(forms[i].name), whole = strlen(text);
        if (strncmp(text, forms[i].name, length) || text[whole - 1] != ')')
            continue;
        value->kind = forms[i].kind;
        text[whole - 1] = 0;
        text += length;
        char *semicolon = strchr(text, ';');
        if (value->kind == STEPS || value->kind == LOOP) {
            Item period = {0, 0};
            if ((good = semicolon != NULL)) {
                *semicolon = 0;
                good = parse_item(text, &period) && !period.error && period.number > 0;
                text = semicolon + 1;
            }
            value->period = period.number;
        }
        char *rest = text, *part;
        while (good && (part = strsep(&rest, ",")) && (good = value->count < MAX_ITEMS))
            good = parse_item(part, &items[value->count++]);
        if (value->kind == RAMP)
            good = good && value->count >= 2 && value->count <= 3;
    }
    if (value->kind == TEXT && parse_item(text, &items[0])) {
        value->kind = CONSTANT;
        value->count = 1;
    } else if (value->kind == TEXT && *text == '!') {
        good = 0;
    }
    if (value->count) {
        value->items = malloc(value->count * sizeof *items);
        memcpy(value->items, items, value->count * sizeof *items);
    }
    free(copy);
    return good;
}

static void free_value(Value *value) {
    free(value->position);
    free(value->items);
    free(value->text);
}

static unsigned hash(const char *key) {
    uint32_t state = 2166136261u;
    for (; *key; key++)
        state = (state ^ (unsigned char)*key) * 16777619u;
    return state % BUCKETS;
}

static Value *find(Device *device, const char *key) {
    for (Entry *entry = device->buckets[hash(key)]; entry; entry = entry->next)
        if (!strcmp(entry->key, key))
            return &entry->value;
    return NULL;
}

static void clear(Device *device) {
    for (unsigned i = 0; i < BUCKETS; i++)
        while (device->buckets[i]) {
            Entry *entry = device->buckets[i];
            device->buckets[i] = entry->next;
            free_value(&entry->value);
            free(entry->key);
            free(entry);
        }
}

static int set(Device *device, const char *key, const char *text) {
    char name[4096], number[16];
    size_t used = 0;
    snprintf(number, sizeof number, "%d", device->mig >= 0 ? device->mig : device->gpu);
    for (const char *at = text; *at && used + sizeof number < sizeof name;) {
        if (!strncmp(at, "{i}", 3)) {
            used += (size_t)snprintf(name + used, sizeof name - used, "%s", number);
            at += 3;
        } else {
            name[used++] = *at++;
        }
    }
    name[used] = 0;
    /* A long list is no text to fill in. */
    Value parsed;
    if (!parse_value(strstr(text, "{i}") ? name : text, &parsed)) {
        free_value(&parsed);
        return 0;
    }
    Value *value = find(device, key);
    if (value) {
        free_value(value);
        *value = parsed;
        return 1;
    }
    Entry *entry = malloc(sizeof *entry);
    unsigned bucket = hash(key);
    *entry = (Entry){device->buckets[bucket], strdup(key), parsed};
    device->buckets[bucket] = entry;
    return 1;
}

static int known_key(const char *key) {
    size_t length = strcspn(key, ".");
    for (size_t i = 0; i < COUNT(KEYS); i++)
        if (strlen(KEYS[i]) == length && !strncmp(KEYS[i], key, length))
            return 1;
    return 0;
}

/* "*", "3" or "1-2"; returns what follows it, or NULL. */
static const char *parse_range(const char *text, int limit, int *first, int *last) {
    *first = 0;
    *last = limit - 1;
    if (*text == '*')
        return text + 1;
    char *end;
    *first = *last = (int)strtol(text, &end, 10);
    if (end == text)
        return NULL;
    if (*end == '-')
        *last = (int)strtol(end + 1, &end, 10);
    return *first >= 0 && *first <= *last && *last < limit ? end : NULL;
}

static int parse_where(char *where, Rule *rule) {
    if (!where) {
        rule->any = 1;
        return 1;
    }
    char *dot = strchr(where, '.');
    rule->mig = -1;
    if (dot) {
        *dot = 0;
        rule->mig = !strcmp(dot + 1, "*") ? -2 : atoi(dot + 1);
    }
    rule->gpu = !strcmp(where, "*") ? -1 : atoi(where);
    return 1;
}

/* error FUNCTION[@DEVICE] NAME [calls A[-[B]] | every N]; hang FUNCTION[@DEVICE] SECONDS [...] */
static int parse_rule(char **words, unsigned count_of_words, Rule *rule) {
    memset(rule, 0, sizeof *rule);
    rule->from = 1;
    rule->to = UINT64_MAX;
    if (count_of_words != 3 && count_of_words != 5)
        return 0;
    char *where = strchr(words[1], '@');
    if (where)
        *where++ = 0;
    parse_where(where, rule);
    if (!strcmp(words[0], "hang")) {
        rule->hang_s = atof(words[2]);
        if (rule->hang_s <= 0)
            return 0;
    } else if ((rule->error = error_code(words[2])) <= 0) {
        return 0;
    }
    if (count_of_words == 5) {
        char *end;
        unsigned long number = strtoul(words[4], &end, 10);
        if (end == words[4] || !number)
            return 0;
        if (!strcmp(words[3], "every")) {
            rule->every = number;
        } else if (!strcmp(words[3], "calls")) {
            rule->from = rule->to = number;
            if (*end == '-')
                rule->to = end[1] ? strtoul(end + 1, &end, 10) : UINT64_MAX;
        } else {
            return 0;
        }
    }
    rule->pattern = strdup(words[1]);
    return 1;
}

/* process GPU compute|graphics|mps PID|self|parent BYTES|none [gi=N] [ci=N] [sm=N] [mem=N] [enc=N] [dec=N] */
static int parse_process(char **words, unsigned count_of_words, Process *process) {
    static const char *const busy[] = {"sm=", "mem=", "enc=", "dec="};
    memset(process, 0, sizeof *process);
    process->gi = process->ci = UINT32_MAX;
    if (count_of_words < 5 || !strchr("cgm", words[2][0]))
        return 0;
    process->gpu = !strcmp(words[1], "*") ? -1 : atoi(words[1]);
    process->kind = words[2][0];
    process->own = !strcmp(words[3], "self") ? 1 : !strcmp(words[3], "parent") ? 2 : 0;
    process->pid = (unsigned)strtoul(words[3], NULL, 10);
    if (!process->own && !process->pid)
        return 0;
    if (!parse_value(strcmp(words[4], "none") ? words[4] : "18446744073709551615", &process->memory))
        return 0;
    for (unsigned i = 5; i < count_of_words; i++) {
        int taken = 0;
        for (unsigned j = 0; j < 4; j++)
            if (!strncmp(words[i], busy[j], strlen(busy[j]))) {
                process->utilization[j] = (unsigned)atoi(words[i] + strlen(busy[j]));
                process->busy = taken = 1;
            }
        if (!strncmp(words[i], "gi=", 3))
            process->gi = (unsigned)atoi(words[i] + 3), taken = 1;
        if (!strncmp(words[i], "ci=", 3))
            process->ci = (unsigned)atoi(words[i] + 3), taken = 1;
        if (!taken)
            return 0;
    }
    return 1;
}

/* event GPU[.MIG] xid|TYPE DATA [after SECONDS] */
static int parse_event(char **words, unsigned count_of_words, Event *event) {
    if (count_of_words != 4 && count_of_words != 6)
        return 0;
    char *dot = strchr(words[1], '.');
    *event = (Event){.gpu = atoi(words[1]), .mig = dot ? atoi(dot + 1) : -1, .after_s = -1};
    event->type = !strcmp(words[2], "xid") ? 8 : strtoull(words[2], NULL, 0);
    event->data = strtoull(words[3], NULL, 0);
    if (count_of_words == 6) {
        if (strcmp(words[4], "after"))
            return 0;
        event->after_s = atof(words[5]);
    }
    return event->gpu >= 0 && event->gpu < MAX_GPUS && event->type;
}

#define APPEND(array, number, item) \
    do { \
        (array) = realloc((array), ((number) + 1) * sizeof *(array)); \
        (array)[(number)++] = (item); \
    } while (0)

static int assign(char *target, const char *text) {
    char *key = strrchr(target, ' ');
    if (!strcmp(target, "gpus"))
        return 1;
    if (!key || !known_key(trim(key)))
        return 0;
    *key = 0;
    key = trim(key + 1);
    target = trim(target);
    int first, last, first_mig, last_mig, good = 1;
    if (!strcmp(target, "system"))
        return set(&host, key, text);
    if (!strncmp(target, "gpu ", 4)) {
        const char *end = parse_range(trim(target + 4), MAX_GPUS, &first, &last);
        for (int i = first; end && !*end && good && i <= last; i++)
            if (gpus[i].present)
                good = set(&gpus[i], key, text);
        return end && !*end && good;
    }
    if (!strncmp(target, "mig ", 4)) {
        const char *end = parse_range(trim(target + 4), MAX_GPUS, &first, &last);
        if (!end || *end != '.')
            return 0;
        end = parse_range(end + 1, MAX_MIG, &first_mig, &last_mig);
        for (int i = first; end && !*end && i <= last; i++)
            for (int j = first_mig; good && j <= last_mig; j++)
                if (migs[i][j].present)
                    good = set(&migs[i][j], key, text);
        return end && !*end && good;
    }
    return 0;
}

/* Which devices there are, before wildcards are applied. */
static void declare(char *line) {
    int first, last, first_mig, last_mig;
    if (sscanf(line, "gpus = %d", &first) == 1 || sscanf(line, "gpus=%d", &first) == 1) {
        gpu_count = first < 0 ? 0 : first > MAX_GPUS ? MAX_GPUS : first;
    } else if (!strncmp(line, "gpu ", 4) && isdigit((unsigned char)line[4])) {
        if (parse_range(line + 4, MAX_GPUS, &first, &last) && last >= gpu_count)
            gpu_count = last + 1;
    } else if (!strncmp(line, "mig ", 4)) {
        const char *end = parse_range(line + 4, MAX_GPUS, &first, &last);
        if (!end || *end != '.' || !isdigit((unsigned char)end[1]))
            return;
        if (parse_range(end + 1, MAX_MIG, &first_mig, &last_mig))
            for (int i = first; i <= last && line[4] != '*'; i++)
                for (int j = first_mig; j <= last_mig; j++)
                    migs[i][j].present = 1;
    }
}

static int parse_line(char *line) {
    char *words[16], *rest = line, *word;
    unsigned count_of_words = 0;
    if (strncmp(line, "error ", 6) && strncmp(line, "hang ", 5) && strncmp(line, "process ", 8) &&
        strncmp(line, "event ", 6)) {
        char *equals = strchr(line, '=');
        if (!equals)
            return 0;
        *equals = 0;
        return assign(trim(line), trim(equals + 1));
    }
    while (count_of_words < 16 && (word = strsep(&rest, " \t")))
        if (*word)
            words[count_of_words++] = word;
    if (!strcmp(words[0], "process")) {
        Process process;
        if (!parse_process(words, count_of_words, &process))
            return 0;
        APPEND(processes, process_count, process);
    } else if (!strcmp(words[0], "event")) {
        Event event;
        if (event_count == MAX_EVENTS || !parse_event(words, count_of_words, &event))
            return 0;
        APPEND(events, event_count, event);
    } else {
        Rule rule;
        if (!parse_rule(words, count_of_words, &rule))
            return 0;
        APPEND(rules, rule_count, rule);
    }
    return 1;
}

static void forget(void) {
    clear(&host);
    for (int i = 0; i < MAX_GPUS; i++) {
        clear(&gpus[i]);
        gpus[i] = (Device){.gpu = i, .mig = -1, .slot = i * (MAX_MIG + 1)};
        for (int j = 0; j < MAX_MIG; j++) {
            clear(&migs[i][j]);
            migs[i][j] = (Device){.gpu = i, .mig = j, .slot = i * (MAX_MIG + 1) + 1 + j};
        }
    }
    for (unsigned i = 0; i < rule_count; i++)
        free(rules[i].pattern);
    for (unsigned i = 0; i < process_count; i++)
        free_value(&processes[i].memory);
    gpu_count = 0;
    rule_count = process_count = event_count = 0;
}

static void load(void) {
    static char line[MAX_LINE];
    FILE *file = fopen(scenario_path, "re");
    usable = 0;
    forget();
    if (!file)
        return;
    usable = 1;
    for (int pass = 0; pass < 2; pass++) {
        rewind(file);
        for (unsigned number = 1; fgets(line, sizeof line, file); number++) {
            char *text = trim(line);
            for (char *at = text; *at; at++)
                if (*at == '#' && (at == text || isspace((unsigned char)at[-1])))
                    *at = 0;
            text = trim(text);
            if (!*text)
                continue;
            if (pass == 0) {
                declare(text);
                continue;
            }
            char *original = strdup(text);
            if (!parse_line(text)) {
                complain(number, "not understood: %s", original);
                usable = 0;
            }
            free(original);
        }
        for (int i = 0; i < gpu_count; i++)
            gpus[i].present = 1;
    }
    fclose(file);
    Value *safe = find(&host, "fork_safe");
    fork_safe = !safe || !safe->count || safe->items[0].number != 0;
    if (!first_load_s)
        first_load_s = clock_s(CLOCK_REALTIME);
}

static void reload_if_changed(void) {
    if (!scenario_path)
        return;
    double now = reload_every_s > 0 ? clock_s(CLOCK_MONOTONIC) : 0;
    if (reload_every_s > 0 && now < checked_s + reload_every_s)
        return;
    checked_s = now;
    struct stat found;
    if (stat(scenario_path, &found))
        memset(&found, 0, sizeof found);
    if (found.st_ino == scenario_stat.st_ino && found.st_size == scenario_stat.st_size &&
        found.st_mtim.tv_sec == scenario_stat.st_mtim.tv_sec && found.st_mtim.tv_nsec == scenario_stat.st_mtim.tv_nsec)
        return;
    scenario_stat = found;
    load();
}

/* ------------------------------------------------------------------------------------------------ values */

/* One time for all values of a call. */
static double wall_s(void) {
    return call_s > 0 ? call_s : (call_s = clock_s(CLOCK_REALTIME));
}

static long double elapsed_s(void) {
    if (moment_s >= 0)
        return moment_s;
    Value *now = find(&host, "now"), *start = find(&host, "start");
    if (now && now->kind == CONSTANT)
        return now->items[0].number;
    return wall_s() - (start && start->kind == CONSTANT ? start->items[0].number : first_load_s);
}

static unsigned next_index(Value *value) {
    for (unsigned i = 0; i < value->positions; i++)
        if (value->position[i].reader == reader)
            return value->position[i].reads++;
    APPEND(value->position, value->positions, ((Position){reader, 1}));
    return 0;
}

static int evaluate(Value *value, long double *number) {
    if (!value)
        return NOT_SUPPORTED;
    if (value->kind == TEXT)
        return UNKNOWN;
    unsigned index = 0;
    if (value->kind == RAMP) {
        *number = value->items[0].number + value->items[1].number * elapsed_s();
        if (value->count == 3 && (value->items[1].number < 0 ? *number < value->items[2].number
                                                             : *number > value->items[2].number))
            *number = value->items[2].number;
        return SUCCESS;
    }
    if (value->kind == LIST || value->kind == CYCLE)
        index = next_index(value);
    if (value->kind == STEPS || value->kind == LOOP) {
        long double steps = elapsed_s() / value->period;
        index = steps < 0 ? 0 : (unsigned)steps;
    }
    if (value->kind == CYCLE || value->kind == LOOP)
        index %= value->count;
    if (index >= value->count)
        index = value->count - 1;
    *number = value->items[index].number;
    return value->items[index].error;
}

static int number(Device *device, const char *key, long double *out) {
    return evaluate(find(device, key), out);
}

static Value *find_numbered(Device *device, const char *key, unsigned index) {
    char name[96];
    snprintf(name, sizeof name, "%s.%u", key, index);
    return find(device, name);
}

/* key.INDEX, or else what key says for every index. */
static int numbered(Device *device, const char *key, unsigned index, long double *out) {
    Value *value = find_numbered(device, key, index);
    return evaluate(value ? value : find(device, key), out);
}

static int64_t whole(long double number) {
    return (int64_t)(number < 0 ? number - 0.5L : number + 0.5L);
}

static uint64_t natural(long double number) {
    if (number <= 0)
        return 0;
    if (number >= 18446744073709551615.0L)
        return UINT64_MAX;
    uint64_t below = (uint64_t)number;
    return below + (number - below >= 0.5L);
}

static int get_u32(Device *device, const char *key, uint32_t *out) {
    long double value;
    int rc = out ? number(device, key, &value) : INVALID_ARGUMENT;
    if (!rc)
        *out = (uint32_t)natural(value);
    return rc;
}

static int get_u64(Device *device, const char *key, uint64_t *out) {
    long double value;
    int rc = out ? number(device, key, &value) : INVALID_ARGUMENT;
    if (!rc)
        *out = natural(value);
    return rc;
}

static int get_i32(Device *device, const char *key, int32_t *out) {
    long double value;
    int rc = out ? number(device, key, &value) : INVALID_ARGUMENT;
    if (!rc)
        *out = (int32_t)whole(value);
    return rc;
}

static int get_numbered_u32(Device *device, const char *key, unsigned index, uint32_t *out) {
    long double value;
    int rc = out ? numbered(device, key, index, &value) : INVALID_ARGUMENT;
    if (!rc)
        *out = (uint32_t)natural(value);
    return rc;
}

static uint64_t u64_or(Device *device, const char *key, uint64_t otherwise) {
    uint64_t value;
    return get_u64(device, key, &value) ? otherwise : value;
}

static int put_text(const char *text, char *out, unsigned size) {
    if (!out)
        return INVALID_ARGUMENT;
    if (strlen(text) + 1 > size)
        return INSUFFICIENT_SIZE;
    strcpy(out, text);
    return SUCCESS;
}

static int get_text(Device *device, const char *key, char *out, unsigned size) {
    Value *value = find(device, key);
    if (!value)
        return NOT_SUPPORTED;
    if (value->kind == CONSTANT && value->items[0].error)
        return value->items[0].error;
    return put_text(value->text, out, size);
}

/* ------------------------------------------------------------------------------------------------ a call */

static int matches(const Rule *rule, const char *name, const Device *device) {
    if (!rule->any) {
        if (!device || device->gpu < 0 || (rule->gpu >= 0 && rule->gpu != device->gpu))
            return 0;
        if (rule->mig == -2 ? device->mig < 0 : rule->mig != device->mig)
            return 0;
    }
    return !fnmatch(rule->pattern, name, 0);
}

static int applies(Rule *rule, const char *name, const Device *device) {
    if (!matches(rule, name, device))
        return 0;
    uint64_t call = ++rule->matched;
    return rule->every ? call % rule->every == 0 : call >= rule->from && call <= rule->to;
}

/* What is to go wrong with this call, of a function, a field or a GPM metric; the seconds to hang add up. */
static int mishap(const char *name, const Device *device, double *hang_s) {
    int error = SUCCESS;
    for (unsigned i = 0; i < rule_count; i++)
        if (applies(&rules[i], name, device)) {
            if (rules[i].hang_s > 0 && hang_s)
                *hang_s += rules[i].hang_s;
            if (rules[i].error && !error)
                error = rules[i].error;
        }
    return error;
}

static int is_told_to_hang(const char *name, const Device *device) {
    for (unsigned i = 0; i < rule_count; i++)
        if (rules[i].hang_s > 0 && matches(&rules[i], name, device))
            return 1;
    return 0;
}

/* Ends early when the scenario no longer says so. */
static void hang(double seconds, const char *name, const Device *device) {
    double until = clock_s(CLOCK_MONOTONIC) + seconds, left;
    while (is_told_to_hang(name, device) && (left = until - clock_s(CLOCK_MONOTONIC)) > 0) {
        pthread_mutex_unlock(&lock);
        pause_s(left < 0.005 ? left : 0.005);
        pthread_mutex_lock(&lock);
        checked_s = 0;
        reload_if_changed();
    }
}

static int is_handle(const Device *device) {
    const char *at = (const char *)device;
    return (at >= (const char *)gpus && at < (const char *)(gpus + MAX_GPUS) &&
            (size_t)(at - (const char *)gpus) % sizeof *device == 0) ||
           (at >= (const char *)migs && at < (const char *)(migs + MAX_GPUS) &&
            (size_t)(at - (const char *)migs) % sizeof *device == 0);
}

static int usable_device(Device *device) {
    if (!is_handle(device))
        return INVALID_ARGUMENT;
    if (!device->present || !gpus[device->gpu].present)
        return GPU_IS_LOST;
    long double lost = 0;
    Value *value = find(&gpus[device->gpu], "lost");
    return value && !evaluate(value, &lost) && lost != 0 ? GPU_IS_LOST : SUCCESS;
}

/* Returns with the lock held, whatever it returns; end() lets go of it. */
static int begin(int function, Device *device) {
    pthread_mutex_lock(&lock);
    if (!counts)
        open_counters();
    reload_if_changed();
    Device *of = device == &host || !is_handle(device) ? NULL : device;
    count((unsigned)function, of);
    if (active++)
        count(F_misuse_concurrent, of);
    double hang_s = 0;
    int rc = mishap(NAMES[function], of, &hang_s);
    if (hang_s > 0)
        hang(hang_s, NAMES[function], of);
    call_s = 0;
    reader = (unsigned)function;
    if (rc)
        return rc;
    if (!initialized && function > F_nvmlErrorString) {
        count(F_misuse_uninitialized, of);
        return UNINITIALIZED;
    }
    return device == &host ? SUCCESS : usable_device(device);
}

static int end(int function, int rc) {
    active--;
    add((unsigned)function, COLUMN_FINISHED);
    pthread_mutex_unlock(&lock);
    return rc;
}

#define API(name, ...) __attribute__((visibility("default"))) int name(__VA_ARGS__); int name(__VA_ARGS__)
#define CALL(name, device, expression) \
    { \
        int rc = begin(F_##name, device); \
        if (!rc) \
            rc = (expression); \
        return end(F_##name, rc); \
    }
#define GET_U32(name, key) API(name, Device *d, uint32_t *out) CALL(name, d, get_u32(d, key, out))
#define GET_U64(name, key) API(name, Device *d, uint64_t *out) CALL(name, d, get_u64(d, key, out))
#define GET_TEXT(name, key) API(name, Device *d, char *out, unsigned size) CALL(name, d, get_text(d, key, out, size))

/* ------------------------------------------------------------------------------------------------ the library */

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void after_fork_in_parent(void) { pthread_mutex_unlock(&lock); }
static void after_fork_in_child(void) {
    pthread_mutex_init(&lock, NULL);
    active = 0;
    if (!fork_safe)
        initialized = 0;
}

static int initialize(void) {
    static int prepared;
    if (!prepared++)
        pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    const char *path = getenv("NVML_STUB_SCENARIO"), *reload = getenv("NVML_STUB_RELOAD_MS");
    if (!path || !*path) {
        initialized = 0;
        return LIBRARY_NOT_FOUND;
    }
    reload_every_s = reload ? atof(reload) / 1000 : 0;
    if (!scenario_path || strcmp(path, scenario_path)) {
        free(scenario_path);
        scenario_path = strdup(path);
        memset(&scenario_stat, 0, sizeof scenario_stat);
        first_load_s = 0;
        initialized = 0;
    }
    checked_s = 0;
    reload_if_changed();
    return access(path, R_OK) ? DRIVER_NOT_LOADED : usable ? SUCCESS : UNKNOWN;
}

static int finish_init(int function, int rc) {
    if (!rc)
        initialized++;
    return end(function, rc);
}

/* Another scenario may be named at each start, so it is read before anything else happens. */
#define INIT(name) \
    { \
        pthread_mutex_lock(&lock); \
        open_counters(); \
        int found = initialize(); \
        pthread_mutex_unlock(&lock); \
        int rc = begin(F_##name, &host); \
        return finish_init(F_##name, found ? found : rc); \
    }

API(nvmlInit, void) INIT(nvmlInit)
API(nvmlInit_v2, void) INIT(nvmlInit_v2)
API(nvmlInitWithFlags, unsigned flags) {
    (void)flags;
    INIT(nvmlInitWithFlags)
}

static int shut_down(void) {
    if (!initialized) {
        count(F_misuse_uninitialized, NULL);
        return UNINITIALIZED;
    }
    if (active > 1)
        count(F_misuse_shutdown_while_busy, NULL);
    initialized--;
    return SUCCESS;
}
API(nvmlShutdown, void) CALL(nvmlShutdown, &host, shut_down())

__attribute__((visibility("default"))) const char *nvmlErrorString(int code);
const char *nvmlErrorString(int code) {
    end(F_nvmlErrorString, begin(F_nvmlErrorString, &host));
    for (size_t i = 0; i < COUNT(ERRORS); i++)
        if (ERRORS[i].code == code)
            return ERRORS[i].text;
    return "Unknown Error";
}

API(nvmlSystemGetDriverVersion, char *out, unsigned size)
CALL(nvmlSystemGetDriverVersion, &host, get_text(&host, "driver_version", out, size))
API(nvmlSystemGetNVMLVersion, char *out, unsigned size)
CALL(nvmlSystemGetNVMLVersion, &host, get_text(&host, "nvml_version", out, size))
API(nvmlSystemGetCudaDriverVersion, int *out)
CALL(nvmlSystemGetCudaDriverVersion, &host, get_i32(&host, "cuda_version", out))
API(nvmlSystemGetCudaDriverVersion_v2, int *out)
CALL(nvmlSystemGetCudaDriverVersion_v2, &host, get_i32(&host, "cuda_version", out))

static int process_name(unsigned pid, char *out, unsigned size) {
    char link[64], target[1024];
    snprintf(link, sizeof link, "/proc/%u/exe", pid);
    ssize_t length = readlink(link, target, sizeof target - 1);
    if (length < 0)
        return NOT_FOUND;
    target[length] = 0;
    return put_text(target, out, size);
}
API(nvmlSystemGetProcessName, unsigned pid, char *out, unsigned size)
CALL(nvmlSystemGetProcessName, &host, process_name(pid, out, size))

/* ------------------------------------------------------------------------------------------------ which devices */

static int device_count(unsigned *out) {
    if (!out)
        return INVALID_ARGUMENT;
    *out = (unsigned)gpu_count;
    return SUCCESS;
}
API(nvmlDeviceGetCount, unsigned *out) CALL(nvmlDeviceGetCount, &host, device_count(out))
API(nvmlDeviceGetCount_v2, unsigned *out) CALL(nvmlDeviceGetCount_v2, &host, device_count(out))

static int hand_out(Device *device, Device **out) {
    *out = device;
    return usable_device(device);
}

/* So that `error nvmlDeviceGetHandleByIndex_v2@1 ...` is about the second GPU. */
static int begin_for(int function, unsigned index) {
    int rc = begin(function, &host);
    if (!rc && index < MAX_GPUS) {
        double hang_s = 0;
        add((unsigned)function, COLUMN_SLOTS + gpus[index].slot);
        for (unsigned i = 0; i < rule_count && !rc; i++)
            if (!rules[i].any && applies(&rules[i], NAMES[function], &gpus[index])) {
                hang_s += rules[i].hang_s;
                rc = rules[i].error;
            }
        if (hang_s > 0)
            hang(hang_s, NAMES[function], &gpus[index]);
        call_s = 0;
    }
    return rc;
}

static int by_index(unsigned index, Device **out) {
    return !out || index >= (unsigned)gpu_count ? INVALID_ARGUMENT : hand_out(&gpus[index], out);
}
#define BY_INDEX(name) \
    API(name, unsigned index, Device **out) { \
        int rc = begin_for(F_##name, index); \
        return end(F_##name, rc ? rc : by_index(index, out)); \
    }
BY_INDEX(nvmlDeviceGetHandleByIndex)
BY_INDEX(nvmlDeviceGetHandleByIndex_v2)

static int has_text(Device *device, const char *key, const char *text) {
    Value *value = find(device, key);
    return device->present && value && text && !strcmp(value->text, text);
}

static int by_text(const char *key, const char *text, Device **out) {
    if (!text || !out)
        return INVALID_ARGUMENT;
    for (int i = 0; i < gpu_count; i++) {
        if (has_text(&gpus[i], key, text))
            return hand_out(&gpus[i], out);
        for (int j = 0; j < MAX_MIG; j++)
            if (has_text(&migs[i][j], key, text))
                return hand_out(&migs[i][j], out);
    }
    return NOT_FOUND;
}
API(nvmlDeviceGetHandleBySerial, const char *text, Device **out)
CALL(nvmlDeviceGetHandleBySerial, &host, by_text("serial", text, out))
API(nvmlDeviceGetHandleByUUID, const char *text, Device **out)
CALL(nvmlDeviceGetHandleByUUID, &host, by_text("uuid", text, out))

static int parse_pci(const char *text, unsigned place[3]) {
    return sscanf(text, "%x:%x:%x", &place[0], &place[1], &place[2]) == 3;
}

static int by_pci(const char *text, Device **out) {
    unsigned wanted[3], found[3];
    if (!text || !out || !parse_pci(text, wanted))
        return INVALID_ARGUMENT;
    for (int i = 0; i < gpu_count; i++) {
        Value *value = find(&gpus[i], "pci_bus_id");
        if (value && parse_pci(value->text, found) && !memcmp(found, wanted, sizeof found))
            return hand_out(&gpus[i], out);
    }
    return NOT_FOUND;
}
API(nvmlDeviceGetHandleByPciBusId, const char *text, Device **out)
CALL(nvmlDeviceGetHandleByPciBusId, &host, by_pci(text, out))
API(nvmlDeviceGetHandleByPciBusId_v2, const char *text, Device **out)
CALL(nvmlDeviceGetHandleByPciBusId_v2, &host, by_pci(text, out))

/* ------------------------------------------------------------------------------------------------ what they are */

GET_TEXT(nvmlDeviceGetName, "name")
GET_TEXT(nvmlDeviceGetUUID, "uuid")
GET_TEXT(nvmlDeviceGetSerial, "serial")
GET_TEXT(nvmlDeviceGetBoardPartNumber, "part_number")
GET_TEXT(nvmlDeviceGetVbiosVersion, "vbios_version")
GET_U32(nvmlDeviceGetBoardId, "board_id")
GET_U32(nvmlDeviceGetMultiGpuBoard, "multi_gpu_board")
GET_U32(nvmlDeviceGetBrand, "brand")
GET_U32(nvmlDeviceGetArchitecture, "architecture")
GET_U32(nvmlDeviceGetNumGpuCores, "cores")
GET_U32(nvmlDeviceGetMemoryBusWidth, "memory_bus_width")
GET_U32(nvmlDeviceGetPersistenceMode, "persistence_mode")
GET_U32(nvmlDeviceGetComputeMode, "compute_mode")
GET_U32(nvmlDeviceGetDisplayActive, "display_active")
GET_U32(nvmlDeviceGetDisplayMode, "display_mode")
GET_U32(nvmlDeviceGetPowerSource, "power_source")
GET_U32(nvmlDeviceGetAccountingMode, "accounting_mode")

static int own_index(Device *d, uint32_t *out) {
    if (!out)
        return INVALID_ARGUMENT;
    *out = (uint32_t)(d->mig >= 0 ? d->mig : d->gpu);
    return SUCCESS;
}
API(nvmlDeviceGetIndex, Device *d, uint32_t *out) CALL(nvmlDeviceGetIndex, d, own_index(d, out))
API(nvmlDeviceGetMinorNumber, Device *d, uint32_t *out)
CALL(nvmlDeviceGetMinorNumber, d, find(d, "minor_number") ? get_u32(d, "minor_number", out) : own_index(d, out))

static int compute_capability(Device *d, int *major, int *minor) {
    Value *value = find(d, "compute_capability");
    if (!value)
        return NOT_SUPPORTED;
    if (value->kind == CONSTANT && value->items[0].error)
        return value->items[0].error;
    return major && minor && sscanf(value->text, "%d.%d", major, minor) == 2 ? SUCCESS : INVALID_ARGUMENT;
}
API(nvmlDeviceGetCudaComputeCapability, Device *d, int *major, int *minor)
CALL(nvmlDeviceGetCudaComputeCapability, d, compute_capability(d, major, minor))

typedef struct {
    char legacy_id[16];
    uint32_t domain, bus, device, device_id, subsystem_id;
    char id[32];
} PciInfo;

static int pci_info(Device *d, PciInfo *out) {
    unsigned place[3];
    Value *value = find(d, "pci_bus_id");
    if (!out)
        return INVALID_ARGUMENT;
    if (!value)
        return NOT_SUPPORTED;
    if (value->kind == CONSTANT && value->items[0].error)
        return value->items[0].error;
    if (!parse_pci(value->text, place))
        return UNKNOWN;
    memset(out, 0, sizeof *out);
    out->domain = place[0];
    out->bus = place[1];
    out->device = place[2];
    out->device_id = (uint32_t)u64_or(d, "pci_device_id", 0);
    out->subsystem_id = (uint32_t)u64_or(d, "pci_subsystem_id", 0);
    snprintf(out->legacy_id, sizeof out->legacy_id, "%04X:%02X:%02X.0", place[0] & 0xffff, place[1] & 0xff,
             place[2] & 0xff);
    snprintf(out->id, sizeof out->id, "%08X:%02X:%02X.0", place[0], place[1], place[2]);
    return SUCCESS;
}
API(nvmlDeviceGetPciInfo_v3, Device *d, PciInfo *out) CALL(nvmlDeviceGetPciInfo_v3, d, pci_info(d, out))

/* ------------------------------------------------------------------------------------------------ memory, use */

typedef struct {
    uint64_t total, free, used;
} Memory;
typedef struct {
    uint32_t version;
    uint64_t total, reserved, free, used;
} MemoryV2;

static int memory(Device *d, MemoryV2 *out) {
    int rc = get_u64(d, "memory_total_bytes", &out->total);
    if (!rc)
        rc = get_u64(d, "memory_used_bytes", &out->used);
    out->reserved = u64_or(d, "memory_reserved_bytes", 0);
    uint64_t taken = out->used + out->reserved;
    out->free = u64_or(d, "memory_free_bytes", taken > out->total ? 0 : out->total - taken);
    return rc;
}

/* The first version knows of no reserved memory: it counts as used. */
static int memory_v1(Device *d, Memory *out) {
    MemoryV2 all = {0};
    int rc = out ? memory(d, &all) : INVALID_ARGUMENT;
    if (!rc)
        *out = (Memory){all.total, all.free, all.used + all.reserved};
    return rc;
}

static int memory_v2(Device *d, MemoryV2 *out) {
    if (!out)
        return INVALID_ARGUMENT;
    return out->version == 0x02000028 ? memory(d, out) : ARGUMENT_VERSION_MISMATCH;
}
API(nvmlDeviceGetMemoryInfo, Device *d, Memory *out) CALL(nvmlDeviceGetMemoryInfo, d, memory_v1(d, out))
API(nvmlDeviceGetMemoryInfo_v2, Device *d, MemoryV2 *out) CALL(nvmlDeviceGetMemoryInfo_v2, d, memory_v2(d, out))

static int bar1(Device *d, Memory *out) {
    int rc = out ? get_u64(d, "bar1_total_bytes", &out->total) : INVALID_ARGUMENT;
    if (!rc)
        rc = get_u64(d, "bar1_used_bytes", &out->used);
    if (!rc)
        out->free = out->total - out->used;
    return rc;
}
API(nvmlDeviceGetBAR1MemoryInfo, Device *d, Memory *out) CALL(nvmlDeviceGetBAR1MemoryInfo, d, bar1(d, out))

static int two_u32(Device *d, const char *first, uint32_t *one, const char *second, uint32_t *two) {
    int rc = get_u32(d, first, one);
    return rc ? rc : get_u32(d, second, two);
}

typedef struct {
    uint32_t gpu, memory;
} Utilization;
API(nvmlDeviceGetUtilizationRates, Device *d, Utilization *out)
CALL(nvmlDeviceGetUtilizationRates, d,
     out ? two_u32(d, "utilization_gpu_percent", &out->gpu, "utilization_memory_percent", &out->memory)
         : INVALID_ARGUMENT)

static int engine(Device *d, const char *key, uint32_t *out, uint32_t *period_us) {
    int rc = get_u32(d, key, out);
    if (!rc && period_us)
        *period_us = 167000;
    return rc;
}
#define ENGINE(name, key) \
    API(name, Device *d, uint32_t *out, uint32_t *period_us) CALL(name, d, engine(d, key, out, period_us))
ENGINE(nvmlDeviceGetEncoderUtilization, "encoder_percent")
ENGINE(nvmlDeviceGetDecoderUtilization, "decoder_percent")
ENGINE(nvmlDeviceGetJpgUtilization, "jpg_percent")
ENGINE(nvmlDeviceGetOfaUtilization, "ofa_percent")

/* ------------------------------------------------------------------------------------------------ power, heat */

GET_U32(nvmlDeviceGetPowerUsage, "power_mw")
GET_U32(nvmlDeviceGetPowerManagementMode, "power_management")
GET_U32(nvmlDeviceGetPowerManagementLimit, "power_limit_mw")
GET_U32(nvmlDeviceGetPowerManagementDefaultLimit, "power_default_limit_mw")
GET_U32(nvmlDeviceGetEnforcedPowerLimit, "power_enforced_limit_mw")
GET_U64(nvmlDeviceGetTotalEnergyConsumption, "energy_mj")
GET_U32(nvmlDeviceGetPowerState, "performance_state")
GET_U32(nvmlDeviceGetPerformanceState, "performance_state")
API(nvmlDeviceGetPowerManagementLimitConstraints, Device *d, uint32_t *low, uint32_t *high)
CALL(nvmlDeviceGetPowerManagementLimitConstraints, d,
     two_u32(d, "power_min_limit_mw", low, "power_max_limit_mw", high))

API(nvmlDeviceGetTemperature, Device *d, unsigned sensor, uint32_t *out)
CALL(nvmlDeviceGetTemperature, d, sensor ? INVALID_ARGUMENT : get_u32(d, "temperature_c", out))

typedef struct {
    uint32_t version, sensor;
    int32_t celsius;
} Temperature;
static int temperature_v(Device *d, Temperature *out) {
    if (!out || out->sensor)
        return INVALID_ARGUMENT;
    return out->version == 0x100000C ? get_i32(d, "temperature_c", &out->celsius) : ARGUMENT_VERSION_MISMATCH;
}
API(nvmlDeviceGetTemperatureV, Device *d, Temperature *out) CALL(nvmlDeviceGetTemperatureV, d, temperature_v(d, out))

API(nvmlDeviceGetTemperatureThreshold, Device *d, unsigned which, uint32_t *out)
CALL(nvmlDeviceGetTemperatureThreshold, d,
     which >= 8 ? INVALID_ARGUMENT : get_numbered_u32(d, "threshold_c", which, out))

typedef struct {
    uint32_t version;
    int32_t celsius;
} Margin;
static int margin(Device *d, Margin *out) {
    if (!out)
        return INVALID_ARGUMENT;
    return out->version == 0x1000008 ? get_i32(d, "margin_c", &out->celsius) : ARGUMENT_VERSION_MISMATCH;
}
API(nvmlDeviceGetMarginTemperature, Device *d, Margin *out) CALL(nvmlDeviceGetMarginTemperature, d, margin(d, out))

static int fan(Device *d, const char *key, unsigned which, uint32_t *out) {
    uint32_t fans;
    int rc = get_u32(d, "fans", &fans);
    if (rc)
        return rc;
    return which >= fans ? INVALID_ARGUMENT : get_numbered_u32(d, key, which, out);
}
typedef struct {
    uint32_t version, fan, rpm;
} FanSpeed;
GET_U32(nvmlDeviceGetNumFans, "fans")
API(nvmlDeviceGetFanSpeed, Device *d, uint32_t *out) CALL(nvmlDeviceGetFanSpeed, d, fan(d, "fan_percent", 0, out))
API(nvmlDeviceGetFanSpeed_v2, Device *d, unsigned which, uint32_t *out)
CALL(nvmlDeviceGetFanSpeed_v2, d, fan(d, "fan_percent", which, out))
API(nvmlDeviceGetTargetFanSpeed, Device *d, unsigned which, uint32_t *out)
CALL(nvmlDeviceGetTargetFanSpeed, d, fan(d, "fan_target_percent", which, out))
API(nvmlDeviceGetFanSpeedRPM, Device *d, FanSpeed *out)
CALL(nvmlDeviceGetFanSpeedRPM, d,
     !out                         ? INVALID_ARGUMENT
     : out->version != 0x100000C ? ARGUMENT_VERSION_MISMATCH
                                  : fan(d, "fan_rpm", out->fan, &out->rpm))
API(nvmlDeviceGetMinMaxFanSpeed, Device *d, uint32_t *low, uint32_t *high)
CALL(nvmlDeviceGetMinMaxFanSpeed, d, two_u32(d, "fan_min_percent", low, "fan_max_percent", high))

/* ------------------------------------------------------------------------------------------------ clocks */

static int clock_of(Device *d, const char *which, unsigned domain, uint32_t *out) {
    static const char *const domains[] = {"graphics", "sm", "memory", "video"};
    char key[64];
    if (domain >= COUNT(domains))
        return INVALID_ARGUMENT;
    snprintf(key, sizeof key, "%s_%s_mhz", which, domains[domain]);
    return get_u32(d, key, out);
}
#define CLOCK(name, which) \
    API(name, Device *d, unsigned domain, uint32_t *out) CALL(name, d, clock_of(d, which, domain, out))
CLOCK(nvmlDeviceGetClockInfo, "clock")
CLOCK(nvmlDeviceGetMaxClockInfo, "max_clock")
CLOCK(nvmlDeviceGetApplicationsClock, "app_clock")
CLOCK(nvmlDeviceGetDefaultApplicationsClock, "default_app_clock")
CLOCK(nvmlDeviceGetMaxCustomerBoostClock, "boost_clock")

static int clock_by_id(Device *d, unsigned domain, unsigned id, uint32_t *out) {
    static const char *const ids[] = {"clock", "app_clock", "default_app_clock", "boost_clock"};
    return id >= COUNT(ids) ? INVALID_ARGUMENT : clock_of(d, ids[id], domain, out);
}
API(nvmlDeviceGetClock, Device *d, unsigned domain, unsigned id, uint32_t *out)
CALL(nvmlDeviceGetClock, d, clock_by_id(d, domain, id, out))

GET_U64(nvmlDeviceGetCurrentClocksEventReasons, "clock_reasons")
GET_U64(nvmlDeviceGetSupportedClocksEventReasons, "clock_reasons_supported")
GET_U64(nvmlDeviceGetCurrentClocksThrottleReasons, "clock_reasons")
GET_U64(nvmlDeviceGetSupportedClocksThrottleReasons, "clock_reasons_supported")

typedef struct {
    uint64_t reference_us, violation_ns;
} Violation;
static int violation(Device *d, unsigned policy, Violation *out) {
    long double value;
    if (!out || policy > 11)
        return INVALID_ARGUMENT;
    int rc = numbered(d, "violation_ns", policy, &value);
    if (!rc)
        *out = (Violation){natural(elapsed_s() * 1e6L), natural(value)};
    return rc;
}
API(nvmlDeviceGetViolationStatus, Device *d, unsigned policy, Violation *out)
CALL(nvmlDeviceGetViolationStatus, d, violation(d, policy, out))

/* ------------------------------------------------------------------------------------------------ memory errors */

static const char *const ECC[2][2] = {{"ecc_corrected_volatile", "ecc_corrected_aggregate"},
                                      {"ecc_uncorrected_volatile", "ecc_uncorrected_aggregate"}};

API(nvmlDeviceGetEccMode, Device *d, uint32_t *current, uint32_t *pending)
CALL(nvmlDeviceGetEccMode, d,
     two_u32(d, "ecc_current", current, find(d, "ecc_pending") ? "ecc_pending" : "ecc_current", pending))
API(nvmlDeviceGetTotalEccErrors, Device *d, unsigned type, unsigned counter, uint64_t *out)
CALL(nvmlDeviceGetTotalEccErrors, d, type > 1 || counter > 1 ? INVALID_ARGUMENT : get_u64(d, ECC[type][counter], out))

static int ecc_at(Device *d, unsigned type, unsigned counter, unsigned place, uint64_t *out) {
    long double value;
    if (type > 1 || counter > 1 || place >= 8 || !out)
        return INVALID_ARGUMENT;
    int rc = evaluate(find_numbered(d, ECC[type][counter], place), &value);
    if (!rc)
        *out = natural(value);
    return rc;
}
API(nvmlDeviceGetMemoryErrorCounter, Device *d, unsigned type, unsigned counter, unsigned place, uint64_t *out)
CALL(nvmlDeviceGetMemoryErrorCounter, d, ecc_at(d, type, counter, place, out))

static int ecc_detailed(Device *d, unsigned type, unsigned counter, uint64_t out[4]) {
    int rc = NOT_SUPPORTED;
    for (unsigned place = 0; out && place < 4; place++) {
        int found = ecc_at(d, type, counter, place, &out[place]);
        rc = found ? rc : SUCCESS;
    }
    return rc;
}
API(nvmlDeviceGetDetailedEccErrors, Device *d, unsigned type, unsigned counter, uint64_t *out)
CALL(nvmlDeviceGetDetailedEccErrors, d, ecc_detailed(d, type, counter, out))

/* The scenario says how many; their addresses are made up. */
static int retired_pages(Device *d, unsigned cause, unsigned *room, uint64_t *pages, uint64_t *times) {
    uint32_t found;
    if (cause > 1 || !room)
        return INVALID_ARGUMENT;
    int rc = get_numbered_u32(d, "retired_pages", cause, &found);
    if (rc)
        return rc;
    unsigned available = *room;
    *room = found;
    if (found > available || (found && !pages))
        return INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < found; i++) {
        pages[i] = 0x10000u * (cause + 1) + 0x1000u * i;
        if (times)
            times[i] = 1700000000000000u + i;
    }
    return SUCCESS;
}
API(nvmlDeviceGetRetiredPages, Device *d, unsigned cause, unsigned *room, uint64_t *pages)
CALL(nvmlDeviceGetRetiredPages, d, retired_pages(d, cause, room, pages, NULL))
API(nvmlDeviceGetRetiredPages_v2, Device *d, unsigned cause, unsigned *room, uint64_t *pages, uint64_t *times)
CALL(nvmlDeviceGetRetiredPages_v2, d, retired_pages(d, cause, room, pages, times))
GET_U32(nvmlDeviceGetRetiredPagesPendingStatus, "retired_pending")

static int remapped_rows(Device *d, uint32_t *corrected, uint32_t *uncorrected, uint32_t *pending, uint32_t *failed) {
    int rc = two_u32(d, "remapped_corrected", corrected, "remapped_uncorrected", uncorrected);
    return rc ? rc : two_u32(d, "remap_pending", pending, "remap_failed", failed);
}
API(nvmlDeviceGetRemappedRows, Device *d, uint32_t *corrected, uint32_t *other, uint32_t *pending, uint32_t *failed)
CALL(nvmlDeviceGetRemappedRows, d, remapped_rows(d, corrected, other, pending, failed))

static int remap_histogram(Device *d, uint32_t out[5]) {
    int rc = out ? SUCCESS : INVALID_ARGUMENT;
    for (unsigned i = 0; !rc && i < 5; i++)
        rc = get_numbered_u32(d, "remap_histogram", i, &out[i]);
    return rc;
}
API(nvmlDeviceGetRowRemapperHistogram, Device *d, uint32_t *out)
CALL(nvmlDeviceGetRowRemapperHistogram, d, remap_histogram(d, out))

/* ------------------------------------------------------------------------------------------------ links */

API(nvmlDeviceGetPcieThroughput, Device *d, unsigned direction, uint32_t *out)
CALL(nvmlDeviceGetPcieThroughput, d,
     direction > 1 ? INVALID_ARGUMENT : get_u32(d, direction ? "pcie_rx_kb_per_s" : "pcie_tx_kb_per_s", out))
GET_U32(nvmlDeviceGetCurrPcieLinkGeneration, "pcie_generation")
GET_U32(nvmlDeviceGetCurrPcieLinkWidth, "pcie_width")
GET_U32(nvmlDeviceGetMaxPcieLinkGeneration, "pcie_max_generation")
GET_U32(nvmlDeviceGetGpuMaxPcieLinkGeneration, "pcie_gpu_max_generation")
GET_U32(nvmlDeviceGetMaxPcieLinkWidth, "pcie_max_width")
GET_U32(nvmlDeviceGetPcieReplayCounter, "pcie_replays")
GET_U32(nvmlDeviceGetPcieSpeed, "pcie_speed_mbps")
GET_U32(nvmlDeviceGetPcieLinkMaxSpeed, "pcie_max_speed")

static int nvlink(Device *d, unsigned link) {
    uint32_t links;
    int rc = get_u32(d, "nvlink_links", &links);
    return rc ? rc : link >= links ? INVALID_ARGUMENT : SUCCESS;
}
static int nvlink_u32(Device *d, const char *key, unsigned link, uint32_t *out) {
    int rc = nvlink(d, link);
    return rc ? rc : get_numbered_u32(d, key, link, out);
}
static int nvlink_errors(Device *d, unsigned link, unsigned counter, uint64_t *out) {
    char key[64];
    int rc = out ? nvlink(d, link) : INVALID_ARGUMENT;
    snprintf(key, sizeof key, "nvlink_errors.%u.%u", link, counter);
    if (!rc)
        *out = u64_or(d, key, u64_or(d, "nvlink_errors", 0));
    return rc;
}
static int nvlink_traffic(Device *d, unsigned link, uint64_t *received, uint64_t *sent) {
    long double in, out;
    int rc = received && sent ? nvlink(d, link) : INVALID_ARGUMENT;
    if (!rc)
        rc = evaluate(find_numbered(d, "nvlink_rx_kib", link), &in);
    if (!rc)
        rc = evaluate(find_numbered(d, "nvlink_tx_kib", link), &out);
    if (!rc) {
        *received = natural(in);
        *sent = natural(out);
    }
    return rc;
}
#define NVLINK(name, key) \
    API(name, Device *d, unsigned link, uint32_t *out) CALL(name, d, nvlink_u32(d, key, link, out))
NVLINK(nvmlDeviceGetNvLinkState, "nvlink_state")
NVLINK(nvmlDeviceGetNvLinkVersion, "nvlink_version")
NVLINK(nvmlDeviceGetNvLinkRemoteDeviceType, "nvlink_device_type")
API(nvmlDeviceGetNvLinkCapability, Device *d, unsigned link, unsigned capability, uint32_t *out)
CALL(nvmlDeviceGetNvLinkCapability, d,
     nvlink(d, link) ? nvlink(d, link) : get_numbered_u32(d, "nvlink_capability", capability, out))
API(nvmlDeviceGetNvLinkErrorCounter, Device *d, unsigned link, unsigned counter, uint64_t *out)
CALL(nvmlDeviceGetNvLinkErrorCounter, d, nvlink_errors(d, link, counter, out))
API(nvmlDeviceGetNvLinkUtilizationCounter, Device *d, unsigned link, unsigned counter, uint64_t *in, uint64_t *out)
CALL(nvmlDeviceGetNvLinkUtilizationCounter, d, counter > 1 ? INVALID_ARGUMENT : nvlink_traffic(d, link, in, out))

/* ------------------------------------------------------------------------------------------------ field values */

typedef struct {
    uint32_t field, scope;
    int64_t timestamp_us, latency_us;
    uint32_t type, rc;
    union {
        double real;
        uint32_t u32;
        uint64_t u64;
        int64_t i64;
        int32_t i32;
        uint16_t u16;
    } value;
} FieldValue;

/* The fields whose value a scenario gives by a word; `field.N` goes before it. */
static const struct {
    unsigned id, type;
    const char *key, *otherwise;
} FIELDS[] = {
    {1, TYPE_UINT, "ecc_current", NULL},
    {2, TYPE_UINT, "ecc_pending", "ecc_current"},
    {3, TYPE_ULL, "ecc_corrected_volatile", NULL},
    {4, TYPE_ULL, "ecc_uncorrected_volatile", NULL},
    {5, TYPE_ULL, "ecc_corrected_aggregate", NULL},
    {6, TYPE_ULL, "ecc_uncorrected_aggregate", NULL},
    {29, TYPE_UINT, "retired_pages.0", NULL},
    {30, TYPE_UINT, "retired_pages.1", NULL},
    {31, TYPE_UINT, "retired_pending", NULL},
    {74, TYPE_ULL, "violation_ns.0", NULL},
    {75, TYPE_ULL, "violation_ns.1", NULL},
    {76, TYPE_ULL, "violation_ns.2", NULL},
    {77, TYPE_ULL, "violation_ns.3", NULL},
    {78, TYPE_ULL, "violation_ns.4", NULL},
    {79, TYPE_ULL, "violation_ns.5", NULL},
    {80, TYPE_ULL, "violation_ns.10", NULL},
    {81, TYPE_ULL, "violation_ns.11", NULL},
    {82, TYPE_UINT, "memory_temperature_c", NULL},
    {83, TYPE_ULL, "energy_mj", NULL},
    {91, TYPE_UINT, "nvlink_links", NULL},
    {94, TYPE_UINT, "pcie_replays", NULL},
    {138, TYPE_ULL, "nvlink_tx_kib", NULL},
    {139, TYPE_ULL, "nvlink_rx_kib", NULL},
    {142, TYPE_UINT, "remapped_corrected", NULL},
    {143, TYPE_UINT, "remapped_uncorrected", NULL},
    {144, TYPE_UINT, "remap_pending", NULL},
    {145, TYPE_UINT, "remap_failed", NULL},
    {185, TYPE_UINT, "power_average_mw", "power_mw"},
    {186, TYPE_UINT, "power_instant_mw", "power_mw"},
    {187, TYPE_UINT, "power_min_limit_mw", NULL},
    {188, TYPE_UINT, "power_max_limit_mw", NULL},
    {189, TYPE_UINT, "power_default_limit_mw", NULL},
    {190, TYPE_UINT, "power_enforced_limit_mw", NULL},
    {191, TYPE_ULL, "energy_mj", NULL},
    {193, TYPE_SINT, NULL, NULL},
    {194, TYPE_SINT, NULL, NULL},
    {195, TYPE_SINT, NULL, NULL},
    {196, TYPE_SINT, NULL, NULL},
    {197, TYPE_ULL, "pcie_tx_bytes", NULL},
    {198, TYPE_ULL, "pcie_rx_bytes", NULL},
    {230, TYPE_UINT, "recovery_action", NULL},
    {269, TYPE_ULL, NULL, NULL},
    {270, TYPE_ULL, NULL, NULL},
    {271, TYPE_ULL, NULL, NULL},
};

static Value *find_field(Device *d, const FieldValue *asked, unsigned *type) {
    char key[64];
    size_t i;
    for (i = 0; i < COUNT(FIELDS) && FIELDS[i].id != asked->field; i++)
        ;
    *type = i < COUNT(FIELDS) ? FIELDS[i].type : TYPE_ULL;
    snprintf(key, sizeof key, "field.%u.%u", asked->field, asked->scope);
    Value *value = find(d, key);
    if (!value)
        value = find_numbered(d, "field", asked->field);
    if (!value && i < COUNT(FIELDS) && FIELDS[i].key) {
        int link = asked->field == 138 || asked->field == 139;
        value = link && asked->scope != UINT32_MAX ? find_numbered(d, FIELDS[i].key, asked->scope)
                                                   : find(d, FIELDS[i].key);
        if (!value && FIELDS[i].otherwise)
            value = find(d, FIELDS[i].otherwise);
    }
    if (value && value->type != TYPE_DEFAULT)
        *type = value->type;
    return value;
}

static void read_field(Device *d, FieldValue *out) {
    long double value = 0;
    char name[32];
    memset(&out->value, 0, sizeof out->value);
    out->timestamp_us = (int64_t)(wall_s() * 1e6);
    out->latency_us = 0;
    out->type = TYPE_UINT;
    if (!out->field || out->field >= MAX_FIELD) {
        out->rc = INVALID_ARGUMENT;
        return;
    }
    count(FUNCTION_COUNT + out->field, d);
    snprintf(name, sizeof name, "field.%u", out->field);
    out->rc = (uint32_t)mishap(name, d, NULL);
    if (!out->rc) {
        Value *found = find_field(d, out, &out->type);
        reader = FUNCTION_COUNT + out->field;
        out->rc = (uint32_t)evaluate(found, &value);
    }
    if (out->rc)
        return;
    switch (out->type) {
    case TYPE_DOUBLE: out->value.real = (double)value; break;
    case TYPE_UINT: out->value.u32 = (uint32_t)natural(value); break;
    case TYPE_SLL: out->value.i64 = whole(value); break;
    case TYPE_SINT: out->value.i32 = (int32_t)whole(value); break;
    case TYPE_USHORT: out->value.u16 = (uint16_t)natural(value); break;
    default: out->value.u64 = natural(value);
    }
}

static int field_values(Device *d, int wanted, FieldValue *values) {
    if (wanted < 1 || !values)
        return INVALID_ARGUMENT;
    for (int i = 0; i < wanted; i++)
        read_field(d, &values[i]);
    return SUCCESS;
}
API(nvmlDeviceGetFieldValues, Device *d, int wanted, FieldValue *values)
CALL(nvmlDeviceGetFieldValues, d, field_values(d, wanted, values))

/* ------------------------------------------------------------------------------------------------ processes */

typedef struct {
    uint32_t pid;
    uint64_t memory;
    uint32_t gi, ci;
} ProcessInfo;

static unsigned pid_of(const Process *process) {
    return process->own == 1 ? (unsigned)getpid() : process->own == 2 ? (unsigned)getppid() : process->pid;
}

static int runs_on(const Process *process, Device *d) {
    if (process->gpu >= 0 && process->gpu != d->gpu)
        return 0;
    uint64_t gi = d->mig < 0 ? 0 : u64_or(d, "gpu_instance_id", UINT64_MAX - 1);
    return d->mig < 0 || process->gi == gi;
}

static int running(Device *d, char kind, unsigned *room, ProcessInfo *out) {
    unsigned found = 0;
    if (!room)
        return INVALID_ARGUMENT;
    for (unsigned i = 0; i < process_count; i++) {
        long double used = 0;
        if (processes[i].kind != kind || !runs_on(&processes[i], d))
            continue;
        if (out && found < *room) {
            evaluate(&processes[i].memory, &used);
            out[found] = (ProcessInfo){pid_of(&processes[i]), natural(used), processes[i].gi, processes[i].ci};
        }
        found++;
    }
    int rc = found > *room || (found && !out) ? INSUFFICIENT_SIZE : SUCCESS;
    *room = found;
    return rc;
}
#define RUNNING(name, kind) \
    API(name, Device *d, unsigned *room, ProcessInfo *out) CALL(name, d, running(d, kind, room, out))
RUNNING(nvmlDeviceGetComputeRunningProcesses_v2, 'c')
RUNNING(nvmlDeviceGetComputeRunningProcesses_v3, 'c')
RUNNING(nvmlDeviceGetGraphicsRunningProcesses_v2, 'g')
RUNNING(nvmlDeviceGetGraphicsRunningProcesses_v3, 'g')
RUNNING(nvmlDeviceGetMPSComputeRunningProcesses_v2, 'm')
RUNNING(nvmlDeviceGetMPSComputeRunningProcesses_v3, 'm')

typedef struct {
    uint32_t pid;
    uint64_t memory;
    uint32_t gi, ci;
    uint64_t protected_memory;
} ProcessDetail;
typedef struct {
    uint32_t version, mode, room;
    ProcessDetail *details;
} ProcessDetails;

static int process_details(Device *d, ProcessDetails *out) {
    unsigned found = 0, room;
    if (!out || out->mode > 3)
        return INVALID_ARGUMENT;
    if (out->version != 0x1000018)
        return ARGUMENT_VERSION_MISMATCH;
    room = out->details ? out->room : 0;
    for (unsigned i = 0; i < process_count; i++) {
        long double used = 0;
        if ((out->mode < 3 && processes[i].kind != "cgm"[out->mode]) || !runs_on(&processes[i], d))
            continue;
        if (found < room) {
            evaluate(&processes[i].memory, &used);
            out->details[found] =
                (ProcessDetail){pid_of(&processes[i]), natural(used), processes[i].gi, processes[i].ci, 0};
        }
        found++;
    }
    out->room = found;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}
API(nvmlDeviceGetRunningProcessDetailList, Device *d, ProcessDetails *out)
CALL(nvmlDeviceGetRunningProcessDetailList, d, process_details(d, out))

typedef struct {
    uint32_t pid;
    uint64_t timestamp_us;
    uint32_t sm, memory, encoder, decoder;
} ProcessSample;
typedef struct {
    uint64_t timestamp_us;
    uint32_t pid, sm, memory, encoder, decoder, jpg, ofa;
} ProcessSampleV1;
typedef struct {
    uint32_t version, room;
    uint64_t last_seen_us;
    ProcessSampleV1 *samples;
} ProcessSamples;

/* Idle processes have no samples, and without any there is nothing to be found. */
static int process_samples(Device *d, unsigned *room, ProcessSample *out, ProcessSampleV1 *out_v1) {
    unsigned found = 0;
    if (!room)
        return INVALID_ARGUMENT;
    for (unsigned i = 0; i < process_count; i++) {
        const unsigned *use = processes[i].utilization;
        uint64_t now = natural(wall_s() * 1e6L);
        if (!processes[i].busy || !runs_on(&processes[i], d))
            continue;
        if (out && found < *room)
            out[found] = (ProcessSample){pid_of(&processes[i]), now, use[0], use[1], use[2], use[3]};
        if (out_v1 && found < *room)
            out_v1[found] = (ProcessSampleV1){now, pid_of(&processes[i]), use[0], use[1], use[2], use[3], 0, 0};
        found++;
    }
    int rc = !found ? NOT_FOUND : found > *room || (!out && !out_v1) ? INSUFFICIENT_SIZE : SUCCESS;
    *room = found;
    return rc;
}
API(nvmlDeviceGetProcessUtilization, Device *d, ProcessSample *out, unsigned *room, uint64_t since) {
    (void)since;
    CALL(nvmlDeviceGetProcessUtilization, d, process_samples(d, room, out, NULL))
}
API(nvmlDeviceGetProcessesUtilizationInfo, Device *d, ProcessSamples *out)
CALL(nvmlDeviceGetProcessesUtilizationInfo, d,
     out ? process_samples(d, &out->room, NULL, out->samples) : INVALID_ARGUMENT)

/* ------------------------------------------------------------------------------------------------ events */

typedef struct {
    Device *device;
    uint64_t type, data;
    uint32_t gi, ci;
} EventData;

static int create_set(EventSet **out) {
    if (!out)
        return INVALID_ARGUMENT;
    *out = calloc(1, sizeof **out);
    (*out)->magic = EVENT_MAGIC;
    return SUCCESS;
}
API(nvmlEventSetCreate, EventSet **out) CALL(nvmlEventSetCreate, &host, create_set(out))

static int is_set(const EventSet *set) {
    if (set && set->magic == FREED_MAGIC)
        count(F_misuse_freed, NULL);
    return set && set->magic == EVENT_MAGIC;
}

/* What was given out stays allocated, so that a later use of it is seen. */
static int free_set(EventSet *set) {
    if (!is_set(set))
        return INVALID_ARGUMENT;
    set->magic = FREED_MAGIC;
    return SUCCESS;
}
API(nvmlEventSetFree, EventSet *set) CALL(nvmlEventSetFree, &host, free_set(set))
GET_U64(nvmlDeviceGetSupportedEventTypes, "event_types")

static int register_events(Device *d, uint64_t types, EventSet *set) {
    uint64_t supported;
    if (!is_set(set) || d->mig >= 0)
        return INVALID_ARGUMENT;
    int rc = get_u64(d, "event_types", &supported);
    if (rc || types & ~supported)
        return rc ? rc : NOT_SUPPORTED;
    set->types[d->gpu] |= types;
    set->since_s[d->gpu] = (double)elapsed_s();
    return SUCCESS;
}
API(nvmlDeviceRegisterEvents, Device *d, uint64_t types, EventSet *set)
CALL(nvmlDeviceRegisterEvents, d, register_events(d, types, set))

static int next_event(EventSet *set, EventData *out) {
    for (unsigned i = 0; i < event_count; i++) {
        Event *event = &events[i];
        if (set->delivered[i] || !(set->types[event->gpu] & event->type))
            continue;
        if (event->after_s >= 0 && (event->after_s < set->since_s[event->gpu] || event->after_s > elapsed_s()))
            continue;
        set->delivered[i] = 1;
        Device *device = event->mig >= 0 ? &migs[event->gpu][event->mig] : &gpus[event->gpu];
        *out = (EventData){&gpus[event->gpu], event->type, event->data, UINT32_MAX, UINT32_MAX};
        if (event->mig >= 0) {
            out->gi = (uint32_t)u64_or(device, "gpu_instance_id", UINT32_MAX);
            out->ci = (uint32_t)u64_or(device, "compute_instance_id", UINT32_MAX);
        }
        return 1;
    }
    return 0;
}

static int wait_for_event(EventSet *set, EventData *out, unsigned timeout_ms) {
    if (!is_set(set) || !out)
        return INVALID_ARGUMENT;
    double until = clock_s(CLOCK_MONOTONIC) + timeout_ms / 1000.0, left;
    for (;;) {
        call_s = 0;
        if (next_event(set, out))
            return SUCCESS;
        for (int i = 0; i < MAX_GPUS; i++)
            if (set->types[i] && usable_device(&gpus[i]))
                return GPU_IS_LOST;
        if ((left = until - clock_s(CLOCK_MONOTONIC)) <= 0)
            return TIMEOUT;
        pthread_mutex_unlock(&lock);
        pause_s(left < 0.005 ? left : 0.005);
        pthread_mutex_lock(&lock);
        reload_if_changed();
    }
}
API(nvmlEventSetWait_v2, EventSet *set, EventData *out, unsigned timeout_ms)
CALL(nvmlEventSetWait_v2, &host, wait_for_event(set, out, timeout_ms))

/* ------------------------------------------------------------------------------------------------ MIG */

API(nvmlDeviceGetMigMode, Device *d, uint32_t *current, uint32_t *pending)
CALL(nvmlDeviceGetMigMode, d,
     two_u32(d, "mig_mode", current, find(d, "mig_pending") ? "mig_pending" : "mig_mode", pending))

static int max_mig_devices(Device *d, uint32_t *out) {
    if (!out)
        return INVALID_ARGUMENT;
    *out = (uint32_t)u64_or(d, "mig_max_devices", find(d, "mig_mode") ? 7 : 0);
    return SUCCESS;
}
API(nvmlDeviceGetMaxMigDeviceCount, Device *d, uint32_t *out)
CALL(nvmlDeviceGetMaxMigDeviceCount, d, max_mig_devices(d, out))

static int mig_by_index(Device *d, unsigned index, Device **out) {
    if (!out || d->mig >= 0)
        return INVALID_ARGUMENT;
    if (!find(d, "mig_mode"))
        return NOT_SUPPORTED;
    if (!u64_or(d, "mig_mode", 0) || index >= MAX_MIG || !migs[d->gpu][index].present)
        return NOT_FOUND;
    return hand_out(&migs[d->gpu][index], out);
}
API(nvmlDeviceGetMigDeviceHandleByIndex, Device *d, unsigned index, Device **out)
CALL(nvmlDeviceGetMigDeviceHandleByIndex, d, mig_by_index(d, index, out))

static int parent_of(Device *d, Device **out) {
    if (!out || d->mig < 0)
        return INVALID_ARGUMENT;
    *out = &gpus[d->gpu];
    return SUCCESS;
}
API(nvmlDeviceGetDeviceHandleFromMigDeviceHandle, Device *d, Device **out)
CALL(nvmlDeviceGetDeviceHandleFromMigDeviceHandle, d, parent_of(d, out))

static int is_mig(Device *d, uint32_t *out) {
    if (!out)
        return INVALID_ARGUMENT;
    *out = d->mig >= 0;
    return SUCCESS;
}
API(nvmlDeviceIsMigDeviceHandle, Device *d, uint32_t *out) CALL(nvmlDeviceIsMigDeviceHandle, d, is_mig(d, out))
GET_U32(nvmlDeviceGetGpuInstanceId, "gpu_instance_id")
GET_U32(nvmlDeviceGetComputeInstanceId, "compute_instance_id")

typedef struct {
    uint32_t parts[8];
    uint64_t memory_mb;
} Attributes;
static int attributes(Device *d, Attributes *out) {
    static const char *const keys[] = {"multiprocessors", "copy_engines", "decoders",   "encoders",
                                       "jpegs",           "ofas",         "gpu_slices", "compute_slices"};
    int rc = out ? get_u64(d, "memory_size_mb", &out->memory_mb) : INVALID_ARGUMENT;
    for (unsigned i = 0; !rc && i < COUNT(keys); i++)
        out->parts[i] = (uint32_t)u64_or(d, keys[i], 0);
    return rc;
}
API(nvmlDeviceGetAttributes_v2, Device *d, Attributes *out) CALL(nvmlDeviceGetAttributes_v2, d, attributes(d, out))

/* ------------------------------------------------------------------------------------------------ GPM */

typedef struct {
    uint32_t version, supported;
} GpmSupport;
typedef struct {
    uint32_t id, rc;
    double value;
    const char *short_name, *long_name, *unit;
} GpmMetric;
typedef struct {
    uint32_t version, wanted;
    GpmSample *first, *second;
    GpmMetric metrics[];
} GpmMetrics;

static int gpm_supported(Device *d) {
    return u64_or(&gpus[d->gpu], "gpm_support", 0) != 0;
}

static int gpm_support(Device *d, GpmSupport *out) {
    if (!out)
        return INVALID_ARGUMENT;
    if (out->version != 1)
        return ARGUMENT_VERSION_MISMATCH;
    out->supported = (uint32_t)gpm_supported(d);
    return SUCCESS;
}
API(nvmlGpmQueryDeviceSupport, Device *d, GpmSupport *out) CALL(nvmlGpmQueryDeviceSupport, d, gpm_support(d, out))
GET_U32(nvmlGpmQueryIfStreamingEnabled, "gpm_streaming")

static int is_sample(const GpmSample *sample) {
    if (sample && sample->magic == FREED_MAGIC)
        count(F_misuse_freed, NULL);
    return sample && sample->magic == GPM_MAGIC;
}

static int alloc_sample(GpmSample **out) {
    if (!out)
        return INVALID_ARGUMENT;
    *out = calloc(1, sizeof **out);
    (*out)->magic = GPM_MAGIC;
    return SUCCESS;
}
API(nvmlGpmSampleAlloc, GpmSample **out) CALL(nvmlGpmSampleAlloc, &host, alloc_sample(out))

static int free_sample(GpmSample *sample) {
    if (!is_sample(sample))
        return INVALID_ARGUMENT;
    sample->magic = FREED_MAGIC;
    return SUCCESS;
}
API(nvmlGpmSampleFree, GpmSample *sample) CALL(nvmlGpmSampleFree, &host, free_sample(sample))

static int take_sample(Device *d, GpmSample *sample) {
    if (!is_sample(sample))
        return INVALID_ARGUMENT;
    if (!gpm_supported(d))
        return NOT_SUPPORTED;
    sample->device = d;
    sample->taken_s = elapsed_s();
    sample->order = ++gpm_order;
    return SUCCESS;
}
API(nvmlGpmSampleGet, Device *d, GpmSample *sample)
CALL(nvmlGpmSampleGet, d, d->mig >= 0 ? INVALID_ARGUMENT : take_sample(d, sample))

static int take_mig_sample(Device *d, unsigned gi, GpmSample *sample) {
    for (int i = 0; d->mig < 0 && i < MAX_MIG; i++)
        if (migs[d->gpu][i].present && u64_or(&migs[d->gpu][i], "gpu_instance_id", UINT64_MAX) == gi)
            return take_sample(&migs[d->gpu][i], sample);
    return INVALID_ARGUMENT;
}
API(nvmlGpmMigSampleGet, Device *d, unsigned gi, GpmSample *sample)
CALL(nvmlGpmMigSampleGet, d, take_mig_sample(d, gi, sample))

static void read_metric(Device *d, GpmMetric *metric) {
    long double value = 0;
    char name[32];
    snprintf(name, sizeof name, "gpm.%u", metric->id);
    metric->short_name = metric->long_name = "";
    metric->unit = metric->id >= 20 && metric->id < 30 ? "MiB/s" : "%";
    metric->rc = (uint32_t)mishap(name, d, NULL);
    if (!metric->id || metric->id >= MAX_GPM)
        metric->rc = INVALID_ARGUMENT;
    if (!metric->rc)
        metric->rc = (uint32_t)number(d, name, &value);
    metric->value = metric->rc ? 0 : (double)value;
}

/* Two samples of one device, the older first; values are those of the second's moment. */
static int gpm_metrics(GpmMetrics *get) {
    if (!get || !is_sample(get->first) || !is_sample(get->second))
        return INVALID_ARGUMENT;
    if (get->version != 1)
        return ARGUMENT_VERSION_MISMATCH;
    Device *d = get->first->device;
    if (!d || d != get->second->device || get->first->order >= get->second->order)
        return INVALID_ARGUMENT;
    moment_s = get->second->taken_s;
    for (unsigned i = 0; i < get->wanted; i++)
        read_metric(d, &get->metrics[i]);
    moment_s = -1;
    return SUCCESS;
}
API(nvmlGpmMetricsGet, GpmMetrics *get) CALL(nvmlGpmMetricsGet, &host, gpm_metrics(get))

/* A libnvidia-ml.so.1 whose GPUs are a script: the file that NVML_STUB names, read by nvmlInitWithFlags.
 *
 *   gpu <uuid> <watts> <watts after the step>   one line per GPU, in NVML's order
 *   processes <uuid> <pid> <pid>                whom it lists on that GPU, instead of 4242 alone; 0 for nobody
 *   step <seconds>                              after nvmlInit, when power changes
 *   lost <seconds>                              after nvmlInit, from when every call says that the GPU is lost
 *   no_instant                                  the power field is not supported
 *   garbage                                     every number that no sensor can give
 *   new_reason                                  a reason for a lower clock that drivers got later
 *   error <function> <code>                     what that function returns
 *   clock <file>                                time is the number in that file, in seconds after nvmlInit
 *
 * With OLD_DRIVER it lacks the functions that drivers got last.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OK = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, GPU_IS_LOST = 15, MOST = 16 };
struct gpu { char uuid[96]; double watts[2]; unsigned pids[2]; };
struct failure { char function[96]; int code; };
static struct gpu gpus[MOST];
static struct failure failures[MOST];
static int num_gpus, num_failures, no_instant, garbage, new_reason;
static double began_s, step_s = 1e9, lost_s = 1e9;

static char clock_file[256];

static double now_s(void) {
    struct timespec t;
    FILE *file = *clock_file ? fopen(clock_file, "r") : NULL;
    double scripted;
    if (file) {
        int found = fscanf(file, "%lf", &scripted);
        fclose(file);
        if (found == 1) return scripted;
    }
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9 - began_s;
}

static int answer(const char *function) {
    for (int i = 0; i < num_failures; i++)
        if (!strcmp(failures[i].function, function)) return failures[i].code;
    return now_s() > lost_s ? GPU_IS_LOST : OK;
}
#define ANSWER() do { int code = answer(__func__); if (code) return code; } while (0)

static double power_w(const struct gpu *gpu) { return gpu->watts[now_s() >= step_s]; }

static double energy_j(const struct gpu *gpu) {
    double now = now_s(), before = now < step_s ? now : step_s;
    return gpu->watts[0] * before + gpu->watts[1] * (now - before);
}

static void list_processes(const char *line) {
    char uuid[96];
    unsigned pids[2];
    if (sscanf(line, "processes %95s %u %u", uuid, &pids[0], &pids[1]) != 3) return;
    for (int i = 0; i < num_gpus; i++)
        if (!strcmp(gpus[i].uuid, uuid)) memcpy(gpus[i].pids, pids, sizeof pids);
}

int nvmlInitWithFlags(unsigned flags) {
    char line[300];
    FILE *file = fopen(getenv("NVML_STUB"), "r");
    (void)flags;
    *clock_file = 0;
    began_s = 0;
    began_s = now_s();
    num_gpus = num_failures = no_instant = garbage = new_reason = 0;
    step_s = lost_s = 1e9;
    while (file && fgets(line, sizeof line, file)) {
        struct gpu *gpu = &gpus[num_gpus];
        struct failure *failure = &failures[num_failures];
        num_gpus += sscanf(line, "gpu %95s %lf %lf", gpu->uuid, &gpu->watts[0], &gpu->watts[1]) == 3;
        num_failures += sscanf(line, "error %95s %d", failure->function, &failure->code) == 2;
        if (num_gpus && gpu == &gpus[num_gpus - 1]) gpu->pids[0] = 4242, gpu->pids[1] = 0;
        list_processes(line);
        sscanf(line, "step %lf", &step_s);
        sscanf(line, "lost %lf", &lost_s);
        sscanf(line, "clock %255s", clock_file);
        no_instant |= !strncmp(line, "no_instant", 10);
        garbage |= !strncmp(line, "garbage", 7);
        new_reason |= !strncmp(line, "new_reason", 10);
    }
    if (file) fclose(file);
    ANSWER();
    return OK;
}
int nvmlShutdown(void) { ANSWER(); return OK; }
const char *nvmlErrorString(int code) {
    static char text[32];
    snprintf(text, sizeof text, "stub error %d", code);
    return text;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, struct gpu **gpu) {
    ANSWER();
    for (int i = 0; i < num_gpus; i++)
        if (!strcmp(gpus[i].uuid, uuid)) return *gpu = &gpus[i], OK;
    return NOT_FOUND;
}
/* A slice is cut from the GPU before it. */
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(struct gpu *slice, struct gpu **gpu) {
    ANSWER();
    *gpu = slice - 1;
    return OK;
}
int nvmlDeviceGetTotalEnergyConsumption(struct gpu *gpu, unsigned long long *mj) {
    ANSWER();
    *mj = garbage ? ~0ull : (unsigned long long)(energy_j(gpu) * 1e3);
    return OK;
}
int nvmlDeviceGetPowerUsage(struct gpu *gpu, unsigned *mw) {
    ANSWER();
    *mw = (unsigned)(power_w(gpu) * 1e3);
    return OK;
}
struct field { uint32_t id, scope; int64_t at, latency; int type, code; union { double d; unsigned u; uint64_t l; } value; };
int nvmlDeviceGetFieldValues(struct gpu *gpu, int n, struct field *fields) {
    ANSWER();
    for (int i = 0; i < n; i++) {
        fields[i].code = no_instant ? NOT_SUPPORTED : OK;
        fields[i].type = 1; /* unsigned int */
        fields[i].value.u = garbage ? ~0u : (unsigned)(power_w(gpu) * 1e3);
    }
    return OK;
}
int nvmlDeviceGetClockInfo(struct gpu *gpu, int kind, unsigned *mhz) { (void)gpu; ANSWER(); *mhz = garbage ? 0 : kind == 1 ? 1410 : 1215; return OK; }
int nvmlDeviceGetTemperature(struct gpu *gpu, int sensor, unsigned *c) { (void)gpu; (void)sensor; ANSWER(); *c = garbage ? 255 : 56; return OK; }
int nvmlDeviceGetUtilizationRates(struct gpu *gpu, unsigned *rates) { (void)gpu; ANSWER(); rates[0] = garbage ? 300 : 87; rates[1] = 5; return OK; }
int nvmlDeviceGetMemoryInfo(struct gpu *gpu, unsigned long long *bytes) {
    ANSWER();
    bytes[0] = 1000, bytes[1] = 600, bytes[2] = garbage ? 2000 : 400 + 100 * (unsigned long long)(gpu - gpus);
    return OK;
}
#ifndef OLD_DRIVER
int nvmlDeviceGetCurrentClocksEventReasons(struct gpu *gpu, unsigned long long *bits) { (void)gpu; ANSWER(); *bits = garbage ? ~0ull : new_reason ? 0x8 | 1ull << 40 : 0x8 | 0x40; return OK; }
#endif
int nvmlDeviceGetCurrentClocksThrottleReasons(struct gpu *gpu, unsigned long long *bits) { (void)gpu; ANSWER(); *bits = 0x4; return OK; }
int nvmlDeviceGetPcieThroughput(struct gpu *gpu, int counter, unsigned *kb) { (void)gpu; ANSWER(); *kb = garbage ? ~0u : counter ? 20 : 10; return OK; }
struct process { unsigned pid; unsigned long long memory; unsigned gi, ci; };
#ifndef OLD_DRIVER
int nvmlDeviceGetComputeRunningProcesses_v3(struct gpu *gpu, unsigned *count, struct process *found) {
    ANSWER();
    unsigned num_pids = !!gpu->pids[0] + !!gpu->pids[1];
    unsigned room = *count;
    *count = num_pids;
    if (room < num_pids) return INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < num_pids; i++) found[i] = (struct process){gpu->pids[i], 7, 0, 0};
    return OK;
}
#endif
int nvmlSystemGetDriverVersion(char *text, unsigned n) { ANSWER(); snprintf(text, n, "580.00"); return OK; }
int nvmlDeviceGetVbiosVersion(struct gpu *gpu, char *text, unsigned n) { (void)gpu; ANSWER(); snprintf(text, n, "96.00"); return OK; }
int nvmlDeviceGetEnforcedPowerLimit(struct gpu *gpu, unsigned *mw) { (void)gpu; ANSWER(); *mw = garbage ? 0 : 400000; return OK; }
int nvmlDeviceGetPowerManagementDefaultLimit(struct gpu *gpu, unsigned *mw) { (void)gpu; ANSWER(); *mw = 700000; return OK; }
int nvmlDeviceGetPowerManagementLimitConstraints(struct gpu *gpu, unsigned *least, unsigned *most) {
    (void)gpu;
    ANSWER();
    *least = 200000, *most = 700000;
    return OK;
}
int nvmlDeviceGetMaxClockInfo(struct gpu *gpu, int kind, unsigned *mhz) { (void)gpu; (void)kind; ANSWER(); *mhz = garbage ? ~0u : 1980; return OK; }
int nvmlDeviceGetApplicationsClock(struct gpu *gpu, int kind, unsigned *mhz) { (void)gpu; (void)kind; ANSWER(); *mhz = 1755; return OK; }
int nvmlDeviceGetEccMode(struct gpu *gpu, int *now, int *next) { (void)gpu; ANSWER(); *now = *next = garbage ? 7 : 1; return OK; }
int nvmlDeviceGetMigMode(struct gpu *gpu, unsigned *now, unsigned *next) { (void)gpu; ANSWER(); *now = *next = 0; return OK; }
int nvmlDeviceGetPersistenceMode(struct gpu *gpu, int *mode) { (void)gpu; ANSWER(); *mode = 1; return OK; }

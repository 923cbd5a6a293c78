/* A stand-in for libnvidia-ml.so.1: two GPUs, the second divided into two instances. */
#include <stdio.h>
#include <string.h>

struct memory { unsigned long long total, free, used; };
struct rates { unsigned gpu, memory; };
struct device { const char *uuid, *name; unsigned minor, mig; unsigned long long total, used; };

static struct device devices[] = {
    {"GPU-aaaa", "NVIDIA H200", 0, 0, 144ULL << 30, 10ULL << 30},
    {"GPU-bbbb", "NVIDIA A100-SXM4-80GB", 1, 1, 80ULL << 30, 0},
    {"MIG-cccc", "NVIDIA A100-SXM4-80GB MIG 3g.40gb", 0, 0, 40ULL << 30, 1ULL << 30},
    {"MIG-dddd", "NVIDIA A100-SXM4-80GB MIG 3g.40gb", 0, 0, 40ULL << 30, 2ULL << 30},
};

int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 3; return 0; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct device **device)
{
    if (index > 1)
        return 15; /* it fell off the bus */
    *device = &devices[index];
    return 0;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, struct device **device)
{
    for (int i = 0; i < 4; i++)
        if (!strcmp(devices[i].uuid, uuid)) {
            *device = &devices[i];
            return 0;
        }
    return 6;
}

int nvmlDeviceGetUUID(struct device *device, char *text, unsigned length)
{
    snprintf(text, length, "%s", device->uuid);
    return 0;
}

int nvmlDeviceGetName(struct device *device, char *text, unsigned length)
{
    snprintf(text, length, "%s", device->name);
    return 0;
}

int nvmlDeviceGetMinorNumber(struct device *device, unsigned *minor)
{
    *minor = device->minor;
    return 0;
}

int nvmlDeviceGetMemoryInfo(struct device *device, struct memory *memory)
{
    memory->total = device->total;
    memory->used = device->used;
    memory->free = device->total - device->used;
    return 0;
}

int nvmlDeviceGetUtilizationRates(struct device *device, struct rates *rates)
{
    if (!strncmp(device->uuid, "MIG", 3))
        return 3;
    rates->gpu = 75;
    rates->memory = 20;
    return 0;
}

int nvmlDeviceGetMigMode(struct device *device, unsigned *current, unsigned *pending)
{
    *current = *pending = device->mig;
    return 0;
}

int nvmlDeviceGetMaxMigDeviceCount(struct device *device, unsigned *count) { *count = 7; return 0; }

int nvmlDeviceGetMigDeviceHandleByIndex(struct device *device, unsigned index, struct device **part)
{
    if (index > 1)
        return 6;
    *part = &devices[2 + index];
    return 0;
}

int nvmlSystemGetDriverVersion(char *text, unsigned length)
{
    snprintf(text, length, "570.86.15");
    return 0;
}

int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 12080; return 0; }

/* A Vulkan layer that lets SAPIEN 2.2.2 (SimplerEnv) render with Mesa's lavapipe on a CPU.
 *
 * SAPIEN requests a device extension that lavapipe lacks, VK_KHR_external_semaphore_fd, so that vkCreateDevice fails.
 * This layer removes missing extensions from the request and names them on stderr. It changes nothing else. The loader
 * itself checks the request first: the layer's manifest therefore lists the extension.
 *
 * The function pointers are global: each leads to the next element of the loader's chain, which is the same for all
 * instances and devices of a process.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vulkan/vk_layer.h>
#include <vulkan/vulkan.h>

static PFN_vkGetInstanceProcAddr next_instance_proc;
static PFN_vkGetDeviceProcAddr next_device_proc;
static PFN_vkEnumerateDeviceExtensionProperties enumerate_extensions;
static VkInstance current_instance;

static int is_available(const char *name, const VkExtensionProperties *available, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        if (strcmp(name, available[i].extensionName) == 0) return 1;
    return 0;
}

/* Returns the loader's link in a chain of structures. Those of instances and devices begin with the same members. */
static void *find_link(const void *next, VkStructureType type) {
    for (VkLayerInstanceCreateInfo *info = (VkLayerInstanceCreateInfo *)next; info != NULL;
         info = (VkLayerInstanceCreateInfo *)info->pNext)
        if (info->sType == type && info->function == VK_LAYER_LINK_INFO) return info;
    return NULL;
}

static VKAPI_ATTR VkResult VKAPI_CALL create_instance(const VkInstanceCreateInfo *request,
                                                      const VkAllocationCallbacks *allocator, VkInstance *instance) {
    VkLayerInstanceCreateInfo *link = find_link(request->pNext, VK_STRUCTURE_TYPE_LOADER_INSTANCE_CREATE_INFO);
    if (link == NULL) return VK_ERROR_INITIALIZATION_FAILED;
    next_instance_proc = link->u.pLayerInfo->pfnNextGetInstanceProcAddr;
    link->u.pLayerInfo = link->u.pLayerInfo->pNext;
    PFN_vkCreateInstance create = (PFN_vkCreateInstance)next_instance_proc(NULL, "vkCreateInstance");
    if (create == NULL) return VK_ERROR_INITIALIZATION_FAILED;
    VkResult result = create(request, allocator, instance);
    if (result == VK_SUCCESS) {
        current_instance = *instance;
        enumerate_extensions = (PFN_vkEnumerateDeviceExtensionProperties)next_instance_proc(
            *instance, "vkEnumerateDeviceExtensionProperties");
    }
    return result;
}

static VKAPI_ATTR VkResult VKAPI_CALL create_device(VkPhysicalDevice gpu, const VkDeviceCreateInfo *request,
                                                    const VkAllocationCallbacks *allocator, VkDevice *device) {
    VkLayerDeviceCreateInfo *link = find_link(request->pNext, VK_STRUCTURE_TYPE_LOADER_DEVICE_CREATE_INFO);
    if (link == NULL || enumerate_extensions == NULL) return VK_ERROR_INITIALIZATION_FAILED;
    PFN_vkGetInstanceProcAddr instance_proc = link->u.pLayerInfo->pfnNextGetInstanceProcAddr;
    next_device_proc = link->u.pLayerInfo->pfnNextGetDeviceProcAddr;
    link->u.pLayerInfo = link->u.pLayerInfo->pNext;
    PFN_vkCreateDevice create = (PFN_vkCreateDevice)instance_proc(current_instance, "vkCreateDevice");
    if (create == NULL) return VK_ERROR_INITIALIZATION_FAILED;

    uint32_t count = 0, kept = 0;
    VkResult result = enumerate_extensions(gpu, NULL, &count, NULL);
    if (result != VK_SUCCESS) return result;
    VkExtensionProperties *available = calloc(count + 1, sizeof *available);
    const char **names = calloc(request->enabledExtensionCount + 1, sizeof *names);
    if (available == NULL || names == NULL) {
        result = VK_ERROR_OUT_OF_HOST_MEMORY;
    } else {
        result = enumerate_extensions(gpu, NULL, &count, available);
    }
    if (result == VK_SUCCESS) {
        for (uint32_t i = 0; i < request->enabledExtensionCount; i++) {
            const char *name = request->ppEnabledExtensionNames[i];
            if (is_available(name, available, count))
                names[kept++] = name;
            else
                fprintf(stderr, "simpler_vulkan_layer: the device has no %s, which is left out\n", name);
        }
        VkDeviceCreateInfo reduced = *request;
        reduced.enabledExtensionCount = kept;
        reduced.ppEnabledExtensionNames = names;
        result = create(gpu, &reduced, allocator, device);
    }
    free(available);
    free((void *)names);
    return result;
}

static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL device_proc(VkDevice device, const char *name) {
    if (strcmp(name, "vkGetDeviceProcAddr") == 0) return (PFN_vkVoidFunction)device_proc;
    return next_device_proc == NULL ? NULL : next_device_proc(device, name);
}

static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL instance_proc(VkInstance instance, const char *name) {
    if (strcmp(name, "vkCreateInstance") == 0) return (PFN_vkVoidFunction)create_instance;
    if (strcmp(name, "vkCreateDevice") == 0) return (PFN_vkVoidFunction)create_device;
    if (strcmp(name, "vkGetInstanceProcAddr") == 0) return (PFN_vkVoidFunction)instance_proc;
    if (strcmp(name, "vkGetDeviceProcAddr") == 0) return (PFN_vkVoidFunction)device_proc;
    return next_instance_proc == NULL ? NULL : next_instance_proc(instance, name);
}

VK_LAYER_EXPORT VKAPI_ATTR VkResult VKAPI_CALL
vkNegotiateLoaderLayerInterfaceVersion(VkNegotiateLayerInterface *negotiation) {
    negotiation->loaderLayerInterfaceVersion = 2;
    negotiation->pfnGetInstanceProcAddr = instance_proc;
    negotiation->pfnGetDeviceProcAddr = device_proc;
    negotiation->pfnGetPhysicalDeviceProcAddr = NULL;
    return VK_SUCCESS;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tap interfaces of VMs: made persistent before QEMU starts, removed after it has ended. */
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "hypervisor/qemu_internal.h"

#define TUN_DEVICE "/dev/net/tun"
#define CHOSEN_NAMES "gwtap%d" /* the kernel puts the first free number in */

bool gw_bridge_exists(const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/class/net/%s/bridge", name);
	return access(path, F_OK) == 0;
}

static int attach(const char *name, struct ifreq *ifr, int *ret_fd)
{
	gw_autofd int fd = open(TUN_DEVICE, O_RDWR | O_CLOEXEC);

	*ifr = (struct ifreq){ .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	snprintf(ifr->ifr_name, IFNAMSIZ, "%s", name);
	if (fd < 0 || ioctl(fd, TUNSETIFF, ifr) < 0)
		return -errno;
	*ret_fd = gw_steal_fd(&fd);
	return 0;
}

static int join_bridge(const char *tap, const char *bridge)
{
	gw_autofd int sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq ifr = { .ifr_ifindex = (int)if_nametoindex(tap) };

	snprintf(ifr.ifr_name, IFNAMSIZ, "%s", bridge);
	if (sock < 0 || ioctl(sock, SIOCBRADDIF, &ifr) < 0)
		return -errno;
	ifr = (struct ifreq){ .ifr_flags = 0 };
	snprintf(ifr.ifr_name, IFNAMSIZ, "%s", tap);
	if (ioctl(sock, SIOCGIFFLAGS, &ifr) < 0)
		return -errno;
	ifr.ifr_flags |= IFF_UP;
	return ioctl(sock, SIOCSIFFLAGS, &ifr) < 0 ? -errno : 0;
}

int gw_tap_create(const char *name, const char *bridge, char ret_name[16], struct gw_error *err)
{
	gw_autofd int fd = -1;
	struct ifreq ifr;
	int r;

	if (!gw_bridge_exists(bridge))
		return gw_error_set(err, -ENODEV, "there is no bridge %s on this host", bridge);
	if (name && *name && if_nametoindex(name))
		return gw_error_set(err, -EEXIST, "interface %s exists already (wanted as the VM's tap)",
		                    name);
	r = attach(name && *name ? name : CHOSEN_NAMES, &ifr, &fd);
	if (r < 0)
		return gw_error_set_errno(err, r, "cannot make a tap interface with " TUN_DEVICE);
	if (ioctl(fd, TUNSETPERSIST, 1) < 0)
		return gw_error_set_errno(err, errno, "cannot keep tap interface %s", ifr.ifr_name);
	r = join_bridge(ifr.ifr_name, bridge);
	if (r < 0) {
		ioctl(fd, TUNSETPERSIST, 0);
		return gw_error_set_errno(err, r, "cannot put tap interface %s into bridge %s",
		                          ifr.ifr_name, bridge);
	}
	memcpy(ret_name, ifr.ifr_name, IFNAMSIZ);
	return 0;
}

int gw_tap_remove(const char *name)
{
	gw_autofd int fd = -1;
	struct ifreq ifr;
	int r;

	if (!if_nametoindex(name))
		return 0;
	r = attach(name, &ifr, &fd);
	if (r < 0)
		return r;
	return ioctl(fd, TUNSETPERSIST, 0) < 0 ? -errno : 0;
}

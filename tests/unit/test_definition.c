/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The VM definition: what is accepted, what is refused and in which words, and that it round-trips. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/units.h"
#include "hypervisor/definition.h"

#define MINIMAL "[vm]\nname = web1\nmemory = 512M\n"

static struct gw_vm_def *parse(const char *text)
{
	struct gw_error err = GW_ERROR_INIT;
	struct gw_vm_def *def = NULL;

	if (gw_vm_def_parse(text, &def, &err) < 0)
		fail_msg("%s", err.text);
	return def;
}

static void a_name_and_memory_are_enough(void **state)
{
	struct gw_vm_def *def = parse(MINIMAL);

	assert_string_equal(def->name, "web1");
	assert_int_equal(def->memory_bytes, 512 * GW_MIB);
	assert_int_equal(def->cpus, 1);
	assert_string_equal(def->machine, "q35");
	assert_int_equal(def->accel, GW_ACCEL_AUTO);
	assert_int_equal(def->backing, GW_BACKING_AUTO);
	assert_null(def->cpu_model); /* depends on the accelerator of the host */
	assert_int_equal(strlen(def->uuid), 36);
	gw_vm_def_free(def);
}

static const char everything[] =
	"\xef\xbb\xbf; a comment\n# another\n[vm]\r\n  name=db-2.test_x\n\tuuid : 6F6B2D64-27f2-4a3c-9c51-6d0f5a8e4c11\n"
	"memory=131080K ; odd on purpose\ncpus=4\ncpu=Skylake-Client,-hle\nmachine=pc-i440fx-7.2\naccel=tcg\n"
	"pages=thp\nballoon=yes\nfirmware=/usr/share/a b,c.bin\n\n[boot]\nkernel=/boot/vmlinuz\ninitrd=/boot/initrd\n"
	"append=console=ttyS0 root=/dev/vda1 quiet # not a comment\n[disk root]\npath=/var/a.img\n"
	"[disk data] ; second\npath=/var/b.qcow2\nformat=qcow2\ncache=writeback\nreadonly=yes\n"
	"[nic lan]\nmac=52:54:00:AB:cd:01\nbridge=br0\ntap=vm-db2\nmodel=e1000\n[nic wan]\n"
	"[channel gw0]\n[channel org.qemu.guest_agent.0]\n[qemu]\narg=-device\narg=virtio-rng-pci\narg=-device\n";

static void check_everything(const struct gw_vm_def *def)
{
	assert_string_equal(def->name, "db-2.test_x");
	assert_string_equal(def->uuid, "6f6b2d64-27f2-4a3c-9c51-6d0f5a8e4c11");
	assert_int_equal(def->memory_bytes, 131080 * GW_KIB);
	assert_int_equal(def->cpus, 4);
	assert_string_equal(def->cpu_model, "Skylake-Client,-hle");
	assert_string_equal(def->machine, "pc-i440fx-7.2");
	assert_int_equal(def->accel, GW_ACCEL_TCG);
	assert_int_equal(def->backing, GW_BACKING_THP);
	assert_true(def->balloon);
	assert_string_equal(def->firmware, "/usr/share/a b,c.bin");
	assert_string_equal(def->kernel, "/boot/vmlinuz");
	assert_string_equal(def->initrd, "/boot/initrd");
	assert_string_equal(def->append, "console=ttyS0 root=/dev/vda1 quiet # not a comment");
	assert_int_equal(def->n_disks, 2);
	assert_string_equal(def->disks[0].path, "/var/a.img");
	assert_string_equal(def->disks[0].format, "raw");
	assert_string_equal(def->disks[0].cache, "none");
	assert_false(def->disks[0].readonly);
	assert_string_equal(def->disks[1].format, "qcow2");
	assert_string_equal(def->disks[1].cache, "writeback");
	assert_true(def->disks[1].readonly);
	assert_int_equal(def->n_nics, 2);
	assert_string_equal(def->nics[0].mac, "52:54:00:ab:cd:01");
	assert_string_equal(def->nics[0].bridge, "br0");
	assert_string_equal(def->nics[0].tap, "vm-db2");
	assert_string_equal(def->nics[0].model, "e1000");
	assert_memory_equal(def->nics[1].mac, "52:54:00:", 9);
	assert_null(def->nics[1].bridge);
	assert_string_equal(def->nics[1].model, "virtio-net-pci");
	assert_int_equal(def->n_channels, 2);
	assert_string_equal(def->channels[0].name, "gw0");
	assert_string_equal(def->channels[1].name, "org.qemu.guest_agent.0");
	assert_int_equal(def->n_extra_args, 3);
	assert_string_equal(def->extra_args[0], "-device");
	assert_string_equal(def->extra_args[1], "virtio-rng-pci");
	assert_string_equal(def->extra_args[2], "-device");
}

static void every_key_is_understood_and_survives_the_round_trip(void **state)
{
	struct gw_vm_def *def = parse(everything), *again;
	char *text = NULL, *text_again = NULL;

	check_everything(def);
	assert_int_equal(gw_vm_def_format(def, &text), 0);
	again = parse(text);
	check_everything(again);
	assert_string_equal(def->nics[1].mac, again->nics[1].mac);
	assert_int_equal(gw_vm_def_format(again, &text_again), 0);
	assert_string_equal(text, text_again);
	free(text);
	free(text_again);
	gw_vm_def_free(def);
	gw_vm_def_free(again);
}

static void n11_made_up_addresses_are_local_and_follow_from_the_uuid(void **state)
{
	static const char text[] = MINIMAL "uuid=6f6b2d64-27f2-4a3c-9c51-6d0f5a8e4c11\n[nic a]\n[nic b]\n";
	struct gw_vm_def *a = parse(text), *b = parse(text);

	for (unsigned i = 0; i < 2; i++) {
		assert_string_equal(a->nics[i].mac, b->nics[i].mac);
		assert_int_equal(strlen(a->nics[i].mac), 17);
		assert_memory_equal(a->nics[i].mac, "52:54:00:", 9);
	}
	assert_string_not_equal(a->nics[0].mac, a->nics[1].mac);
	gw_vm_def_free(a);
	gw_vm_def_free(b);
}

static void values_longer_than_the_ini_librarys_line_stay_whole(void **state)
{
	for (size_t len = 150; len < 6000; len += len < 260 ? 1 : 977) {
		gw_autofree char *append = calloc(1, len + 1), *text = NULL, *formatted = NULL;
		struct gw_vm_def *def;

		for (size_t i = 0; i < len; i++)
			append[i] = (char)(i % 7 == 3 && i + 1 < len ? ' ' : 'a' + i % 26);
		assert_true(asprintf(&text, MINIMAL "[boot]\nkernel=/k\nappend = %s ; a comment\ninitrd=/i\n",
		                     append) > 0);
		def = parse(text);
		assert_string_equal(def->append, append);
		assert_string_equal(def->initrd, "/i");
		assert_int_equal(gw_vm_def_format(def, &formatted), 0);
		gw_vm_def_free(def);
		def = parse(formatted);
		assert_string_equal(def->append, append);
		gw_vm_def_free(def);
	}
}

static const struct {
	const char *text, *words; /* what the error must say */
} refused[] = {
	{ "", "[vm] has no name" },
	{ "[vm]\nname=a\n", "[vm] has no memory" },
	{ "name=a\n", "line 1: a key before the first [section]" },
	{ "[vm]\nname=a\nmemory=12Q\n", "line 3: memory: '12Q' is not a size (write 512M or 4G)" },
	{ "[vm]\nname=a\n\n\nmemory=12345\n", "line 5: memory: '12345' is out of range" },
	{ "[vm]\nmemory=17T\n", "out of range" },
	{ "[vm]\nmemory=99999999999T\n", "line 2: memory" },
	{ "[vm]\nmemory=-1G\n", "line 2: memory" },
	{ "[vm]\nmemory=1025K\n", "is not a multiple of 8K" },
	{ "[vm]\nname=../etc\n", "line 2: name: '../etc' is not a VM name" },
	{ "[vm]\nname=a/b\n", "is not a VM name" },
	{ "[vm]\nname=.\n", "is not a VM name" },
	{ "[vm]\nname=..\n", "is not a VM name" },
	{ "[vm]\nname=-a\n", "is not a VM name" },
	{ "[vm]\nname=aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffgggg\n", "is not a VM name" },
	{ "[vm]\nname=a\nname=b\n", "line 3: name is there twice" },
	{ "[vm]\nname=\n", "line 2: name: no value" },
	{ "[qemu]\narg=;x\n", "line 2: arg: no value" },
	{ "[vm]\nnmae=a\n", "line 2: unknown key 'nmae' in [vm] (known: name, uuid, memory, cpus, cpu, machine, "
	  "accel, pages, balloon, firmware)" },
	{ "[channel a]\nx=1\n", "unknown key 'x' in [channel] (known: none)" },
	{ "[vn]\n", "line 1: unknown section [vn] (known: vm, boot, disk NAME, nic NAME, channel NAME, qemu)" },
	{ "[vm]\n[vm]\n", "line 2: [vm] is there twice" },
	{ "[vm x]\n", "[vm] takes no name" },
	{ "[disk]\n", "[disk NAME] needs a name" },
	{ "[disk a/b]\n", "[disk NAME] needs a name" },
	{ "[disk a]\n[disk a]\n", "line 2: [disk a] is there twice" },
	{ "[vm\n", "line 1: '[' without ']'" },
	{ "[vm] name=a\n", "line 1: text after ']'" },
	{ "[disk aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffff]\n", "section name too long" },
	{ "[vm]\nnonsense\n", "line 2: neither a [section] nor 'key = value'" },
	{ "[vm]\nuuid=6f6b2d64-27f2-4a3c-9c51-6d0f5a8e4c1g\n", "is not a UUID" },
	{ "[vm]\ncpus=0\n", "is not a number from 1 to 255" },
	{ "[vm]\ncpus=+3\n", "is not a number" },
	{ "[vm]\ncpus=99999999999999999999\n", "is not a number" },
	{ "[vm]\naccel=xen\n", "is not one of auto, kvm, tcg" },
	{ "[vm]\npages=1G\n", "is not one of auto, 4k, thp, hugetlb" },
	{ "[vm]\nmachine=q35,accel=kvm\n", "line 2: machine: 'q35,accel=kvm' is not a name" },
	{ "[vm]\nfirmware=bios.bin\n", "is not an absolute path" },
	{ "[vm]\nname=a\nmemory=131080K\npages=hugetlb\n", "not a multiple of 2M" },
	{ MINIMAL "[boot]\nappend=quiet\n", "[boot] has no kernel" },
	{ MINIMAL "[disk a]\n", "[disk] number 1 has no path" },
	{ MINIMAL "[disk a]\npath=nbd:host:10809\n", "is not an absolute path" },
	{ MINIMAL "[disk a]\nformat=vmdk\n", "is not one of raw, qcow2" },
	{ MINIMAL "[disk a]\nreadonly=perhaps\n", "is not one of yes, no" },
	{ MINIMAL "[nic a]\nmac=00:1b:21:00:00:01\n", "not a locally administered unicast address" },
	{ MINIMAL "[nic a]\nmac=53:54:00:00:00:01\n", "not a locally administered unicast address" },
	{ MINIMAL "[nic a]\nmac=52:54:00:00:00\n", "is not a MAC address" },
	{ MINIMAL "[nic a]\nmac=52:54:00:00:00:011\n", "is not a MAC address" },
	{ MINIMAL "[nic a]\nmac=52:54:00:00:00:01\n[nic b]\nmac=52:54:00:00:00:01\n", "two NICs have the MAC" },
	{ MINIMAL "[nic a]\ntap=t0\n", "a tap and no bridge" },
	{ MINIMAL "[nic a]\nbridge=../../x\n", "is not an interface name" },
	{ "[vm]\nname=a\x01\n", "line 2: control character" },
	{ "[vm]\n\x01section=1\n", "line 2: control character" },
	{ "[vm]\n; \xff\xfe\n", "not UTF-8" },
	{ MINIMAL "[disk a]\n[disk b]\n[disk c]\n[disk d]\n[disk e]\n[disk f]\n[disk g]\n[disk h]\n[disk i]\n",
	  "line 12: more than 8 [disk] sections" },
};

static void bad_text_is_refused_with_the_line_and_the_reason(void **state)
{
	for (size_t i = 0; i < GW_ARRAY_SIZE(refused); i++) {
		struct gw_error err = GW_ERROR_INIT;
		struct gw_vm_def *def = NULL;

		if (gw_vm_def_parse(refused[i].text, &def, &err) >= 0)
			fail_msg("accepted: %s", refused[i].text);
		assert_null(def);
		if (!strstr(err.text, refused[i].words))
			fail_msg("for '%s' it says '%s', wanted '%s'", refused[i].text, err.text,
			         refused[i].words);
	}
}

static void limits_hold_against_hostile_text(void **state)
{
	struct gw_error err = GW_ERROR_INIT;
	struct gw_vm_def *def = NULL;
	gw_autofree char *text = malloc(GW_DEFINITION_TEXT_MAX + 2);
	size_t used;

	memset(text, '\n', GW_DEFINITION_TEXT_MAX + 1);
	text[GW_DEFINITION_TEXT_MAX + 1] = 0;
	assert_int_equal(gw_vm_def_parse(text, &def, &err), -E2BIG);
	memcpy(text, "[vm]\nname=", 10);
	memset(text + 10, 'a', 9000);
	text[9010] = 0;
	assert_int_equal(gw_vm_def_parse(text, &def, &err), -EINVAL);
	assert_non_null(strstr(err.text, "line 2: longer than 8192 characters"));
	used = (size_t)sprintf(text, MINIMAL "[qemu]\n");
	for (int i = 0; i < 65; i++)
		used += (size_t)sprintf(text + used, "arg=x\n");
	assert_int_equal(gw_vm_def_parse(text, &def, &err), -EINVAL);
	assert_non_null(strstr(err.text, "one too many (at most 64)"));
}

static void a_value_that_would_not_survive_is_not_written(void **state)
{
	static const char *const values[] = { "a\nkernel = /evil", " a", "a ", "a ; b", "", "\001" };
	struct gw_vm_def *def = parse(MINIMAL "[boot]\nkernel=/k\nappend=x\n");
	char *text = NULL;

	for (size_t i = 0; i < GW_ARRAY_SIZE(values); i++) {
		free(def->append);
		def->append = strdup(values[i]);
		assert_int_equal(gw_vm_def_format(def, &text), -EINVAL);
		assert_null(text);
	}
	gw_vm_def_free(def);
}

static void the_example_parses(void **state)
{
	gw_autofree char *text = NULL;
	struct gw_vm_def *def;
	size_t len;

	assert_int_equal(gw_read_file(getenv("GODWIT_TEST_EXAMPLE"), GW_DEFINITION_TEXT_MAX, &text, &len), 0);
	def = parse(text);
	gw_vm_def_free(def);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_name_and_memory_are_enough),
		cmocka_unit_test(every_key_is_understood_and_survives_the_round_trip),
		cmocka_unit_test(n11_made_up_addresses_are_local_and_follow_from_the_uuid),
		cmocka_unit_test(values_longer_than_the_ini_librarys_line_stay_whole),
		cmocka_unit_test(bad_text_is_refused_with_the_line_and_the_reason),
		cmocka_unit_test(limits_hold_against_hostile_text),
		cmocka_unit_test(a_value_that_would_not_survive_is_not_written),
		cmocka_unit_test(the_example_parses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

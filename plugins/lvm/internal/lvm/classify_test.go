package lvm

import (
	"errors"
	"testing"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// What LVM 2.03.16 really said, each with exit code 5.
func TestClassify(t *testing.T) {
	const missing = "  WARNING: Couldn't find device with uuid J29Wnz-V0Lm-wark-QSQ7-RpZC-gVS0-Mdsq1e.\n  WARNING: VG vg0 is missing PV J29Wnz-V0Lm-wark-QSQ7-RpZC-gVS0-Mdsq1e (last written to /dev/vdc).\n"
	const unsure = "  WARNING: Sum of all thin volume sizes (2.00 GiB) exceeds the size of thin pool vg0/tp and the size of whole volume group (508.00 MiB).\n"
	for _, c := range []struct {
		name, verb, stderr string
		want               metav1.Reason
	}{
		{"no such volume", "lvs", `  Failed to find logical volume "vg0/nope"` + "\n", metav1.Reason_REASON_NOT_FOUND},
		{"no such volume to rename", "lvrename", `  Existing logical volume "nope" not found in volume group "vg0"` + "\n", metav1.Reason_REASON_NOT_FOUND},
		{"no such volume to extend", "lvextend", "  Logical volume t1 not found in volume group vg0.\n", metav1.Reason_REASON_NOT_FOUND},
		{"no such origin", "lvcreate", "  Snapshot origin LV nope not found in Volume group vg0.\n", metav1.Reason_REASON_NOT_FOUND},
		{"no such thin pool", "lvcreate", "  Pool nopool not found in Volume group vg0.\n", metav1.Reason_REASON_NOT_FOUND},
		{"no such group", "vgs", `  Volume group "vgnope" not found` + "\n  Cannot process volume group vgnope\n", metav1.Reason_REASON_DEVICE_MISSING},
		{"exists", "lvcreate", `  Logical Volume "lin" already exists in volume group "vg0"` + "\n", metav1.Reason_REASON_SPEC_CONFLICT},
		{"no space", "lvcreate", `  Volume group "vg0" has insufficient free space (123 extents): 25600 required.` + "\n", metav1.Reason_REASON_NO_SPACE},
		{"no space to grow", "lvextend", "  Insufficient free space: 25598 extents needed, but only 123 available\n", metav1.Reason_REASON_NO_SPACE},
		{
			"thin pool full", "lvcreate",
			"  WARNING: Thin pool vg0/tp is out of data space.\n  Cannot create new thin volume, free space in thin pool vg0/tp reached threshold.\n", metav1.Reason_REASON_NO_SPACE,
		},
		{
			"thin pool's metadata full", "lvcreate",
			"  WARNING: Remaining free space in metadata of thin pool vg0/tp is too low (75.68% >= 75.00%). Resize is recommended.\n  Cannot create new thin volume, free space in thin pool vg0/tp reached threshold.\n",
			metav1.Reason_REASON_NO_SPACE,
		},
		{"in use", "lvremove", "  Logical volume vg0/t1 in use.\n", metav1.Reason_REASON_VOLUME_IN_USE},
		{
			"device missing, change", "lvcreate",
			missing + "  Cannot change VG vg0 while PVs are missing.\n  See vgreduce --removemissing and vgextend --restoremissing.\n  Cannot process volume group vg0\n", metav1.Reason_REASON_DEVICE_MISSING,
		},
		{
			"device missing, activate", "lvchange", missing + "  Refusing activation of partial LV vg0/b.  Use '--activationmode partial' to override.\n",
			metav1.Reason_REASON_DEVICE_MISSING,
		},
		{"device missing beside another reason", "lvchange", missing + `  Failed to find logical volume "vg0/nope"` + "\n", metav1.Reason_REASON_NOT_FOUND},
		{
			"locked", "lvcreate", "  /run/lock/lvm/V_vg0: flock failed: Resource temporarily unavailable\n  Can't get lock for vg0.\n  Cannot process volume group vg0\n",
			metav1.Reason_REASON_BUSY,
		},
		{"interrupted while waiting for a lock", "lvcreate", "  Interrupted...\n  Giving up waiting for lock.\n  Can't get lock for vg0.\n  Cannot process volume group vg0\n", metav1.Reason_REASON_BUSY},
		{"unknown", "lvextend", "  New size (512 extents) matches existing size (512 extents).\n", metav1.Reason_REASON_BACKEND_FAILED},
		{"only a warning that means nothing", "lvcreate", unsure, metav1.Reason_REASON_BACKEND_FAILED},
		{"nothing said", "lvcreate", "", metav1.Reason_REASON_BACKEND_FAILED},
	} {
		err := classify(c.verb, c.stderr, errors.New("exit status 5"))
		if !fault.Is(err, c.want) {
			t.Errorf("%s: %v is %s, want %s", c.name, err, fault.From(err).Reason, c.want)
		}
	}
}

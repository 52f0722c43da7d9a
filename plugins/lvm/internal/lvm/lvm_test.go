package lvm

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// A report as LVM 2.03.16 printed it.
const lvsReport = `
  {
      "report": [
          {
              "lv": [
                  {"lv_name":"lin", "lv_size":"8388608", "lv_attr":"-ri-a----k", "lv_active":"active", "lv_device_open":"open", "lv_tags":"lq.a=b,theirs", "pool_lv":"", "origin":"", "data_percent":"", "metadata_percent":"", "lv_health_status":"", "zero":"unknown", "lv_layout":"linear", "vg_extent_size":"4194304", "vg_size":"532676608", "vg_free":"440401920", "vg_missing_pv_count":"1"},
                  {"lv_name":"sn", "lv_size":"4194304", "lv_attr":"swi-a-s---", "lv_active":"active", "lv_device_open":"", "lv_tags":"", "pool_lv":"", "origin":"lin", "data_percent":"0.00", "metadata_percent":"", "lv_health_status":"", "zero":"unknown", "lv_layout":"linear", "vg_extent_size":"4194304", "vg_size":"532676608", "vg_free":"440401920", "vg_missing_pv_count":"1"},
                  {"lv_name":"t1", "lv_size":"1073741824", "lv_attr":"Vwi---tz-k", "lv_active":"", "lv_device_open":"unknown", "lv_tags":"", "pool_lv":"tp", "origin":"t0", "data_percent":"", "metadata_percent":"", "lv_health_status":"", "zero":"zero", "lv_layout":"thin,sparse", "vg_extent_size":"4194304", "vg_size":"532676608", "vg_free":"440401920", "vg_missing_pv_count":"1"},
                  {"lv_name":"tp", "lv_size":"67108864", "lv_attr":"twi-aotzD-", "lv_active":"active", "lv_device_open":"open", "lv_tags":"", "pool_lv":"", "origin":"", "data_percent":"100.00", "metadata_percent":"11.52", "lv_metadata_size":"4194304", "lv_health_status":"out_of_data", "zero":"zero", "lv_layout":"thin,pool", "vg_extent_size":"4194304", "vg_size":"532676608", "vg_free":"440401920", "vg_missing_pv_count":"1"}
              ]
          }
      ]
  }
`

func TestReadsReport(t *testing.T) {
	rows, err := parse([]byte(lvsReport), "lv")
	if err != nil {
		t.Fatal(err)
	}
	var got []LV
	for _, r := range rows {
		got = append(got, r.lv())
	}
	vg := VG{ExtentBytes: 4 << 20, SizeBytes: 532676608, FreeBytes: 440401920, MissingPVs: 1}
	want := []LV{
		{Name: "lin", SizeBytes: 8 << 20, Tags: []string{"lq.a=b", "theirs"}, Active: true, Open: true, ReadOnly: true, DataPercent: -1, MetadataPercent: -1, VG: vg},
		{Name: "sn", SizeBytes: 4 << 20, Active: true, Origin: "lin", Classic: true, MetadataPercent: -1, VG: vg},
		{Name: "t1", SizeBytes: 1 << 30, ThinPool: "tp", Origin: "t0", Zeroes: true, DataPercent: -1, MetadataPercent: -1, VG: vg},
		{Name: "tp", SizeBytes: 64 << 20, Active: true, Open: true, IsThinPool: true, Zeroes: true, DataPercent: 100, MetadataPercent: 11.52, MetadataBytes: 4 << 20, Health: "out_of_data", VG: vg},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if _, err := parse([]byte("no json"), "lv"); err == nil {
		t.Error("no error for what is no report")
	}
}

// Whatever a value holds, its tag holds only what LVM allows, and reads back.
func TestTags(t *testing.T) {
	for _, v := range []string{"", "plain", "image:11111111-1111-4111-8111-111111111111", "with blank, comma=and&", "ünï\x00\xff", "&41", "@x"} {
		tag := Tag("k", v)
		if strings.Trim(tag, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+.-/=!:&#") != "" {
			t.Errorf("%q", tag)
		}
		if got := ReadTags([]string{"theirs", tag, "lq.broken", "lq.bad=&4"}); len(got) != 1 || got["k"] != v {
			t.Errorf("%q became %q by %q", v, got, tag)
		}
	}
}

func TestFilterNamesDevicesExactly(t *testing.T) {
	text := Config{Devices: []string{"/dev/sda", "/dev/disk/by-id/a.b+c"}}.text()
	if want := `global_filter = [ "a|^/dev/sda$|", "a|^/dev/disk/by-id/a[.]b[+]c$|", "r|.*|" ]`; !strings.Contains(text, want) {
		t.Errorf("%s lacks %s", text, want)
	}
}

// The machine's own LVM on a loop device: without device-mapper it keeps metadata only, which is enough to prove arguments and reports. Its
// filter shows only our device.
func TestOnThisMachine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pv")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 64<<20); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "-f", "--show", file).Output()
	if err != nil {
		t.Fatalf("a loop device: %v", err)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = exec.Command("losetup", "-d", dev).Run() })
	tool, err := New(t.TempDir(), Config{Devices: []string{dev}})
	if err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) error {
		_, err := tool.Run(t.Context(), append(args, "--config", "global{activation=0}")...)
		return err
	}
	const vg = "lqunittest"
	for _, args := range [][]string{
		{"vgcreate", "-q", vg, dev},
		{"lvcreate", "-y", "-n", "a", "-an", "-ky", "-L", "8388608b", "-Wn", "-Zn", "--addtag", Tag("id", "x y"), vg},
		{"lvcreate", "-y", "-n", "b", "-an", "-ky", "-L", "4194304b", "-Wn", "-Zn", vg},
		{"lvextend", "-y", "-L", "12582912b", vg + "/a"},
		{"lvchange", "-y", "-pr", "--deltag", Tag("id", "x y"), "--addtag", Tag("id", "z"), vg + "/a"},
		{"lvrename", "-y", vg, "b", "c"},
	} {
		if err := run(args...); err != nil {
			t.Fatal(err)
		}
	}
	lvs, err := tool.LVs(t.Context(), vg)
	if err != nil || len(lvs) != 2 || lvs[0].SizeBytes != 12<<20 || !lvs[0].ReadOnly || ReadTags(lvs[0].Tags)["id"] != "z" || lvs[1].Name != "c" {
		t.Errorf("%+v %v", lvs, err)
	}
	if _, ok, err := tool.LV(t.Context(), vg, "none"); ok || err != nil {
		t.Error(ok, err)
	}
	if pvs, err := tool.PVs(t.Context(), vg); err != nil || len(pvs) != 1 || pvs[0] != dev {
		t.Error(pvs, err)
	}
	for _, c := range []struct {
		want metav1.Reason
		args []string
	}{
		{metav1.Reason_REASON_SPEC_CONFLICT, []string{"lvcreate", "-y", "-n", "a", "-an", "-L", "4m", "-Wn", "-Zn", vg}},
		{metav1.Reason_REASON_NO_SPACE, []string{"lvcreate", "-y", "-n", "d", "-an", "-L", "1g", "-Wn", "-Zn", vg}},
		{metav1.Reason_REASON_NOT_FOUND, []string{"lvremove", "-y", vg + "/none"}},
		{metav1.Reason_REASON_DEVICE_MISSING, []string{"lvremove", "-y", "nosuchgroup/none"}},
	} {
		if err := run(c.args...); !fault.Is(err, c.want) {
			t.Errorf("%v: %v, want %s", c.args, err, c.want)
		}
	}
	blind, err := New(t.TempDir(), Config{Devices: []string{"/dev/nosuchdevice"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := blind.VG(t.Context(), vg); !fault.Is(err, metav1.Reason_REASON_DEVICE_MISSING) {
		t.Errorf("a group on a device that may not be looked at: %v", err)
	}
}

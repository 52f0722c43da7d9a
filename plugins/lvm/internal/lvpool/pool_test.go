package lvpool

import (
	"testing"

	"github.com/limiquantix/limiquantix/plugins/lvm/internal/lvm"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

const testID = "11111111-1111-4111-8111-111111111111"

func TestMetadataLimit(t *testing.T) {
	for size, want := range map[int64]float64{2 << 20: 75, 4 << 20: 75, 40 << 20: 90, 400 << 20: 99} {
		if got := metadataLimit(size); got != want {
			t.Errorf("%d MiB: %v, want %v", size>>20, got, want)
		}
	}
}

// What a request writes on an object reads back as the same; another pool's, cluster's or node's object is not ours.
func TestObjectCarriesItsMark(t *testing.T) {
	p := &Pool{id: testID, short: "0123abcd", owner: Owner{ClusterID: "c 1", NodeID: "n"}, held: map[string]int{}, busy: t.TempDir()}
	m := &driverv1.OwnershipMark{ClusterId: "c 1", NodeId: "n", ObjectId: testID, Generation: 3, Epoch: 7}
	var tags []string
	for i, a := range p.addTags(m, lvm.Tags{"state": making, "source": "image:" + testID}) {
		if i%2 == 1 {
			tags = append(tags, a)
		}
	}
	o, ok := p.object(lvm.LV{Name: p.name(aVolume, testID), Tags: tags})
	if !ok || !p.ours(o) || o.live() || o.kind != aVolume || o.id != testID || o.mark().String() != m.String() {
		t.Errorf("%v %+v", ok, o)
	}
	delete(o.tags, "state")
	if !o.live() {
		t.Error("it is whole and not listed")
	}
	for _, other := range []*Pool{
		{id: "other", short: p.short, owner: p.owner}, {id: p.id, short: p.short, owner: Owner{"c 1", "n2"}}, {id: p.id, short: p.short, owner: Owner{"c2", "n"}},
	} {
		if other.ours(o) {
			t.Errorf("%+v takes it for its own", other)
		}
	}
	for _, name := range []string{"root", "lq_v_ffffffff_" + testID, "lq_v_0123abcd_x", "lq_vv_0123abcd_" + testID, "lq_v_0123abcd"} {
		if _, ok := p.object(lvm.LV{Name: name}); ok {
			t.Errorf("%s is taken for an object of the pool", name)
		}
	}
}

func TestParameters(t *testing.T) {
	p, err := ReadParameters(map[string]string{"vg": "data", "thin_pool": "tp", "devices": "/dev/sda, /dev/disk/by-id/x"})
	if err != nil || !p.Equal(Parameters{VG: "data", ThinPool: "tp", Devices: []string{"/dev/sda", "/dev/disk/by-id/x"}}) {
		t.Error(p, err)
	}
	for _, bad := range []map[string]string{
		{},
		{"vg": ""},
		{"vg": "-x"},
		{"vg": "a/b"},
		{"vg": ".."},
		{"vg": "v", "thin_pool": "a b"},
		{"vg": "v", "devices": ""},
		{"vg": "v", "devices": "/dev/../etc/x"},
		{"vg": "v", "devices": "/tmp/x"},
		{"vg": "v", "devices": `/dev/x|"`},
		{"vg": "v", "x": "y"},
	} {
		if _, err := ReadParameters(bad); err == nil {
			t.Errorf("%v is taken", bad)
		}
	}
}

// Holes come as holes, data as data, in order, at every alignment.
func TestSender(t *testing.T) {
	content := make([]byte, 5*blockBytes)
	content[0], content[3*blockBytes+7] = 1, 2
	var got []byte
	holes := 0
	s := &sender{send: func(r *driverv1.ExportVolumeResponse) error {
		if r.GetOffset() != int64(len(got)) {
			t.Errorf("a part at %d after %d bytes", r.GetOffset(), len(got))
		}
		got = append(append(got, r.GetData()...), make([]byte, r.GetHoleBytes())...)
		if r.GetHoleBytes() > 0 {
			holes++
		}
		return nil
	}}
	for _, part := range [][]byte{content[:blockBytes], content[blockBytes:]} {
		if err := s.part(part); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.flush(); err != nil || string(got) != string(content) || holes != 2 {
		t.Errorf("%d bytes, %d holes, %v", len(got), holes, err)
	}
}

func TestStepFitsExtents(t *testing.T) {
	for extent, want := range map[int64]int64{1 << 20: 4 << 20, 4 << 20: 4 << 20, 32 << 20: 32 << 20, 384 << 10: 12 << 20} {
		if got := lcm(Granularity, extent); got != want {
			t.Errorf("extents of %d: %d, want %d", extent, got, want)
		}
	}
}

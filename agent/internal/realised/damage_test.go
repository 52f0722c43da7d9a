package realised

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
)

// content is all that a store tells.
func content(s *Store) map[string]string {
	out := map[string]string{}
	for _, kind := range []string{KindVM, KindVolume} {
		for _, r := range s.Records(kind) {
			out["record "+r.Key().String()] = fmt.Sprintf("%+v", r)
		}
	}
	for _, o := range s.Desired() {
		out["desired "+o.GetKey().GetId()] = string(must(proto.MarshalOptions{Deterministic: true}.Marshal(o)))
	}
	for i := range 40 {
		id := fmt.Sprint("vm-", i)
		if o := s.Former(&agentv1.DesiredKey{Kind: agentv1.DesiredKind_DESIRED_KIND_VM, Id: id}); o != nil {
			out["former "+id] = o.String()
		}
	}
	return out
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// busyFile is the file of a node on which something happened.
func busyFile(t *testing.T) (data []byte, holds map[string]string) {
	t.Helper()
	dir := t.TempDir()
	s, _ := open(t, dir)
	object := func(i int) *agentv1.DesiredObject {
		id := fmt.Sprint("vm-", i)
		return &agentv1.DesiredObject{
			Key: &agentv1.DesiredKey{Kind: agentv1.DesiredKind_DESIRED_KIND_VM, Id: id}, Version: "1",
			Object: &agentv1.DesiredObject_Vm{Vm: &agentv1.DesiredVM{VmId: id, Name: "a name that takes some room", Epoch: int64(i)}},
		}
	}
	for i := range 40 {
		if err := s.PutNow(Record{Kind: KindVM, ID: fmt.Sprint("vm-", i), Driver: "kvm", Epoch: int64(i), RestartDone: 3, Handle: make([]byte, 200), Made: true}); err != nil {
			t.Fatal(err)
		}
		if err := s.SaveDesired([]*agentv1.DesiredObject{object(i)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		if err := s.SaveDesired(nil, []*agentv1.DesiredKey{object(i).GetKey()}); err != nil {
			t.Fatal(err)
		}
	}
	holds = content(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, fileName))
	if err != nil {
		t.Fatal(err)
	}
	if len(holds) != 80 {
		t.Fatalf("%d entries", len(holds))
	}
	return data, holds
}

// However the file is damaged, either all of it is read or it counts as lost, is kept aside, and a new one works: never a part, never in silence.
func TestDamagedAtAnyByte(t *testing.T) {
	t.Parallel()
	data, holds := busyFile(t)
	count := 300
	if n, err := strconv.Atoi(os.Getenv("LIMIQUANTIX_TEST_COUNT")); err == nil {
		count = n * 10
	}
	seed := uint64(time.Now().UnixNano())
	if n, err := strconv.ParseUint(os.Getenv("LIMIQUANTIX_TEST_SEED"), 10, 64); err == nil {
		seed = n
	}
	t.Logf("LIMIQUANTIX_TEST_SEED=%d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	whole, lost := 0, 0
	for i := range count {
		damaged, how := append([]byte(nil), data...), ""
		at := r.IntN(len(data))
		switch i % 4 {
		case 0: // where the meta pages are
			at = r.IntN(2)*os.Getpagesize() + r.IntN(pageHeader+metaSize)
			fallthrough
		case 1:
			bit := byte(1) << r.IntN(8)
			damaged[at] ^= bit
			how = fmt.Sprintf("bit %#x of byte %d flipped", bit, at)
		case 2:
			damaged, how = damaged[:at], fmt.Sprintf("cut off at %d", at)
		case 3:
			n := min(1+r.IntN(5000), len(data)-at)
			clear(damaged[at : at+n])
			how = fmt.Sprintf("%d bytes from %d set to zero", n, at)
		}
		dir := t.TempDir()
		for name, b := range map[string][]byte{fileName: damaged, markerName: nil} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s, rec, err := Open(dir, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatalf("%s: the agent does not start: %v", how, err)
		}
		got := content(s)
		kept, _ := filepath.Glob(filepath.Join(dir, fileName+".damaged-*"))
		switch {
		case rec.Lost && len(got) == 0 && rec.Reason != "" && (len(kept) == 1 || len(damaged) == 0):
			lost++
		case !rec.Lost && len(kept) == 0 && reflect.DeepEqual(got, holds):
			whole++
		default:
			t.Errorf("%s: lost %v (%s), %d of %d entries, %d files kept aside", how, rec.Lost, rec.Reason, len(got), len(holds), len(kept))
		}
		if err := s.PutNow(Record{Kind: KindVM, ID: "new"}); err != nil {
			t.Errorf("%s: the file cannot be written: %v", how, err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("%s: close: %v", how, err)
		}
	}
	t.Logf("of %d: %d read whole, %d counted as lost", count, whole, lost)
	if whole == 0 || lost < count/3 {
		t.Errorf("of %d damages %d were harmless and %d were seen", count, whole, lost)
	}
}

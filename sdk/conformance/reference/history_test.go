package reference

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

func history(t *testing.T, journal string) (deeds []deed) {
	t.Helper()
	b, err := os.ReadFile(journal + ".history")
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var d deed
		if err := json.Unmarshal([]byte(line), &d); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		deeds = append(deeds, d)
	}
	return deeds
}

// The history has what came about, numbered without a gap over several processes, and nothing of what failed.
func TestHistory(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal")
	mark := &driverv1.OwnershipMark{NodeId: "n", Epoch: 3}
	started := driverv1.DomainEventType_DOMAIN_EVENT_TYPE_STARTED
	act := func(b *backend, id string, fail error) error {
		return b.do(func(x *tx) error {
			x.did(started, id, mark)
			x.putBytes(domainTable, id, []byte(id))
			return fail
		})
	}
	first, second := &backend{path: path}, &backend{path: path} // as two processes
	if err := errors.Join(act(first, "a", nil), act(second, "b", nil), act(first, "c", nil)); err != nil {
		t.Fatal(err)
	}
	if err := act(first, "d", os.ErrInvalid); !errors.Is(err, os.ErrInvalid) {
		t.Fatal(err)
	}
	deeds := history(t, path)
	if len(deeds) != 3 {
		t.Fatalf("%+v", deeds)
	}
	for i, d := range deeds {
		if d.Number != int64(i+1) || d.Verb != "started" || d.Domain != string("abc"[i]) || d.Node != "n" || d.Epoch != 3 || d.Time.IsZero() {
			t.Errorf("%+v", d)
		}
	}
	// The history cannot be written: nothing came about.
	if err := errors.Join(os.Remove(path+".history"), os.Mkdir(path+".history", 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := act(first, "e", nil); err == nil {
		t.Error("a deed came about that the history does not have")
	}
	_ = first.do(func(x *tx) error {
		if x.has(domainTable, "e") {
			t.Error("what failed is in the journal")
		}
		return nil
	})
}

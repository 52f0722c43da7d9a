package e2e

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/test/stack"
)

// An agent whose state file is lost, cut off or damaged finds its guests again by their marks, leaves them alone, and keeps the damaged file.
func TestStateFileDamaged(t *testing.T) {
	s := start(t)
	if err := s.AwaitNode(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := importGuest(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	lq(t, s, small("kept", "")...)
	before, file := running(t, s), filepath.Join(s.Dir, "agent", "realised.db")
	for name, spoil := range map[string]func(data []byte) []byte{
		"lost":    func([]byte) []byte { return nil },
		"cut off": func(data []byte) []byte { return data[:2*os.Getpagesize()+100] }, // behind its beginning: the second half may be empty
		"damaged": func(data []byte) []byte { data[os.Getpagesize()+20] ^= 1; return data },
	} {
		if err := s.Kill("agent"); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if data = spoil(data); data == nil {
			err = os.Remove(file)
		} else {
			err = os.WriteFile(file, data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := s.StartAgent(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.AwaitNode(t.Context()); err != nil { // with the new agent's plugins
			t.Fatalf("%s: %v", name, err)
		}
		err = stack.Until(t.Context(), 2*time.Minute, "the VM as wanted after the file was "+name, func() (bool, string) {
			out, err := s.LQCtl(t.Context(), "why", "kept")
			return err == nil && strings.Contains(out, "is as wanted"), out
		})
		if err != nil {
			t.Fatal(err)
		}
		if after := running(t, s); !reflect.DeepEqual(after, before) {
			t.Errorf("%s: guests were %v and are %v", name, before, after)
		}
	}
	if kept, _ := filepath.Glob(file + ".damaged-*"); len(kept) != 2 {
		t.Errorf("kept aside: %v", kept)
	}
	lq(t, s, "vm", "delete", "kept")
}

package lab

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// An answer is asked for once, and again when what it follows from has changed; a failure is not kept.
func TestKeptAnswer(t *testing.T) {
	t.Parallel()
	dir, asked, fail := t.TempDir(), 0, error(nil)
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := func(answers int, err error) {
		t.Helper()
		got, e := keptAnswer(Cache{Dir: dir}, "answer", []string{filepath.Join(dir, "list*")}, func() (string, error) { asked++; return "it\nis", fail })
		if asked != answers || !errors.Is(e, err) || err == nil && got != "it\nis" {
			t.Errorf("asked %d times, want %d: %q, %v", asked, answers, got, e)
		}
	}
	write("list1", "a")
	want(1, nil)
	want(1, nil)
	write("list2", "")
	want(2, nil)
	write("list1", "aa")
	want(3, nil)
	want(3, nil)
	write("list1", "aaa")
	fail = os.ErrPermission
	want(4, fail)
	fail = nil
	want(5, nil)
	want(5, nil)
}

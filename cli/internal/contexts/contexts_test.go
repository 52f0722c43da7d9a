package contexts

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSaveLoad(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "deep", "contexts.yaml")
	var f File
	f.Put(Context{Name: "lab", Server: "http://127.0.0.1:8080", Token: "s3cret", Project: "default"})
	f.Put(Context{Name: "alpha", Server: "https://alpha:8080", TokenFile: "/etc/token"})
	f.Current = "lab"
	if err := Save(path, f); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	got, err := Load(path)
	if err != nil || got.Current != "lab" || got.Find("lab").Token != "s3cret" || strings.Join(got.Names(), " ") != "alpha lab" {
		t.Fatalf("%+v, %v", got, err)
	}
	if !got.Remove("lab") || got.Remove("lab") || got.Current != "" {
		t.Fatalf("after remove: %+v", got)
	}
}

func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "contexts.yaml")
	if f, err := Load(path); err != nil || len(f.Contexts) != 0 {
		t.Fatalf("absent: %+v, %v", f, err)
	}
	write := func(text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("contexts: []\n", 0o644)
	if _, err := Load(path); !errors.Is(err, ErrExposed) {
		t.Errorf("readable by others: %v", err)
	}
	write("contexts:\n- name: a\n  sever: b\n", 0o600)
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "line 3") {
		t.Errorf("unknown key: %v", err)
	}
}

func TestPath(t *testing.T) {
	t.Parallel()
	env := map[string]string{"HOME": "/home/u"}
	get := func(k string) string { return env[k] }
	if got := Path(get); got != "/home/u/.config/limiquantix/contexts.yaml" {
		t.Error(got)
	}
	env["XDG_CONFIG_HOME"] = "/x"
	if got := Path(get); got != "/x/limiquantix/contexts.yaml" {
		t.Error(got)
	}
}

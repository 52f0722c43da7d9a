// Package contexts keeps the controllers that a user talks to, in one file that only they may read.
package contexts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Context says how to reach one controller.
type Context struct {
	Name      string `yaml:"name" json:"name"`
	Server    string `yaml:"server" json:"server"`
	Token     string `yaml:"token,omitempty" json:"-"`
	TokenFile string `yaml:"token_file,omitempty" json:"tokenFile,omitempty"`
	CAFile    string `yaml:"ca_file,omitempty" json:"caFile,omitempty"`
	Project   string `yaml:"project,omitempty" json:"project,omitempty"`
}

// File is all contexts of a user.
type File struct {
	Current  string    `yaml:"current,omitempty"`
	Contexts []Context `yaml:"contexts"`
}

// ErrExposed says that others may read the file.
var ErrExposed = errors.New("may be read by others, and can hold tokens")

// Path is where the file is: under $XDG_CONFIG_HOME, or ~/.config.
func Path(getenv func(string) string) string {
	dir := getenv("XDG_CONFIG_HOME")
	if dir == "" {
		home := getenv("HOME")
		if home == "" {
			return ""
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "limiquantix", "contexts.yaml")
}

// Load reads the file; one that does not exist is empty. Unknown keys and a file that others may read are refused.
func Load(path string) (File, error) {
	var f File
	if path == "" {
		return f, nil
	}
	r, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, err
	}
	defer r.Close()
	info, err := r.Stat()
	if err != nil {
		return f, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return f, fmt.Errorf("%s %w (mode %04o)", path, ErrExposed, info.Mode().Perm())
	}
	if info.Size() == 0 {
		return f, nil
	}
	dec := yaml.NewDecoder(r)
	dec.KnownFields(true)
	if err := dec.Decode(&f); err != nil {
		return f, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// Save writes the file so that a reader sees the old or the new one whole, with mode 0600.
func Save(path string, f File) error {
	if path == "" {
		return errors.New("neither HOME nor XDG_CONFIG_HOME is set, so there is no place for contexts")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	data, err := yaml.Marshal(f)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".contexts-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // gone after the rename
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Sync()
	}
	if closeErr := tmp.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// Find is the context with this name, or nil.
func (f *File) Find(name string) *Context {
	for i := range f.Contexts {
		if f.Contexts[i].Name == name {
			return &f.Contexts[i]
		}
	}
	return nil
}

// Put adds or replaces a context; the list stays ordered by name.
func (f *File) Put(c Context) {
	if old := f.Find(c.Name); old != nil {
		*old = c
		return
	}
	f.Contexts = append(f.Contexts, c)
	slices.SortFunc(f.Contexts, func(a, b Context) int { return strings.Compare(a.Name, b.Name) })
}

// Remove deletes a context; false when there is none. A current one leaves none current.
func (f *File) Remove(name string) bool {
	before := len(f.Contexts)
	f.Contexts = slices.DeleteFunc(f.Contexts, func(c Context) bool { return c.Name == name })
	if f.Current == name {
		f.Current = ""
	}
	return len(f.Contexts) < before
}

// Names are the names of all contexts.
func (f *File) Names() []string {
	names := make([]string, len(f.Contexts))
	for i, c := range f.Contexts {
		names[i] = c.Name
	}
	return names
}

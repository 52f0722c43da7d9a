package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

// mutation is one break.
type mutation struct {
	Name      string `yaml:"name"`      // what goes wrong, in a few words
	Invariant string `yaml:"invariant"` // number in docs/reliability.md
	File      string `yaml:"file"`      // from the repository's root
	Old       string `yaml:"old"`       // occurs once in the file
	New       string `yaml:"new"`
	Package   string `yaml:"package"` // folder of the test; default the file's
	Test      string `yaml:"test"`    // turns red
}

// load reads the kept list.
func load(path string) ([]mutation, error) {
	data, err := os.ReadFile(path) //nolint:gosec // the repository's own file
	if err != nil {
		return nil, err
	}
	var list []mutation
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&list); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	seen := map[string]bool{}
	for i := range list {
		m := &list[i]
		if m.Name == "" || m.Invariant == "" || m.File == "" || m.Old == "" || m.Test == "" || m.Old == m.New || seen[m.Name] {
			return nil, fmt.Errorf("%s: entry %d (%s): name (unique), invariant, file, old, new and test are needed", path, i+1, m.Name)
		}
		seen[m.Name] = true
		if m.Package == "" {
			m.Package = filepath.ToSlash(filepath.Dir(m.File))
		}
	}
	return list, nil
}

// overlay writes the broken file and the overlay that puts it in the good one's place.
func (m mutation) overlay(root, work string) (string, error) {
	path := filepath.Join(root, filepath.FromSlash(m.File))
	src, err := os.ReadFile(path) //nolint:gosec // the repository's own file
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(src), m.Old); n != 1 {
		return "", fmt.Errorf("%s holds %q %d times, want once: the code has changed, so must the list", m.File, m.Old, n)
	}
	broken := filepath.Join(work, "broken.go")
	if err := os.WriteFile(broken, []byte(strings.Replace(string(src), m.Old, m.New, 1)), 0o600); err != nil {
		return "", err
	}
	data, err := json.Marshal(map[string]any{"Replace": map[string]string{path: broken}})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(work, "overlay.json")
	return overlay, os.WriteFile(overlay, data, 0o600)
}

package lab

import (
	"fmt"
	"os"
	"path/filepath"
)

// libvirt keeps what it found out about a QEMU binary, in files that it checks
// by itself against the binary, its own version and the kernel. Probing takes
// many seconds without KVM, so nodes share the files through the cache.
const capabilitiesDir = "cache/qemu/capabilities"

func loadCapabilities(nodeDir string) error {
	cache, err := OpenCache()
	if err != nil {
		return err
	}
	return copyFiles(filepath.Join(cache.Dir, "capabilities"), filepath.Join(nodeDir, capabilitiesDir))
}

// saveCapabilities is best effort: without it only the next start is slower.
func saveCapabilities(nodeDir string) {
	cache, err := OpenCache()
	if err != nil {
		return
	}
	_ = copyFiles(filepath.Join(nodeDir, capabilitiesDir), filepath.Join(cache.Dir, "capabilities"))
}

// copyFiles copies the files of one folder into another, each by a rename.
func copyFiles(from, to string) error {
	names, err := filepath.Glob(filepath.Join(from, "*.xml"))
	if err != nil || len(names) == 0 {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	for _, name := range names {
		body, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		tmp, err := os.CreateTemp(to, "tmp-")
		if err != nil {
			return err
		}
		_, err = tmp.Write(body)
		if cerr := tmp.Close(); err == nil {
			err = cerr
		}
		if err == nil {
			err = os.Rename(tmp.Name(), filepath.Join(to, filepath.Base(name)))
		}
		if err != nil {
			_ = os.Remove(tmp.Name())
			return fmt.Errorf("copy %s: %w", name, err)
		}
	}
	return nil
}

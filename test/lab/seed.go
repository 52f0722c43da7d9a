package lab

import (
	"fmt"
	"os"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"
)

// Seed is what a guest's cloud-init is told by the NoCloud data source.
type Seed struct {
	MetaData      string // instance-id, local-hostname
	UserData      string // begins with "#cloud-config" or "#!"
	NetworkConfig string // version 1 or 2; empty for DHCP on the first card
}

// WriteSeed writes a CD image labelled cidata to a new file. A guest that has
// it as any kind of disk or CD drive at its first boot follows it.
func WriteSeed(path string, seed Seed) error {
	const block, bytes = 2048, 1 << 20
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	defer f.Close()
	work, err := os.MkdirTemp("", "lab-seed-")
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	defer os.RemoveAll(work)
	iso, err := iso9660.Create(file.New(f, false), bytes, 0, block, work)
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	for name, text := range map[string]string{
		"meta-data": seed.MetaData, "user-data": seed.UserData, "network-config": seed.NetworkConfig,
	} {
		if name == "network-config" && text == "" {
			continue
		}
		w, err := iso.OpenFile("/"+name, os.O_CREATE|os.O_RDWR)
		if err != nil {
			return fmt.Errorf("seed: %s: %w", name, err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			return fmt.Errorf("seed: %s: %w", name, err)
		}
		if err := w.Close(); err != nil {
			return fmt.Errorf("seed: %s: %w", name, err)
		}
	}
	if err := iso.Finalize(iso9660.FinalizeOptions{RockRidge: true, VolumeIdentifier: fmt.Sprintf("%-32s", "cidata")}); err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	return nil
}

package lab

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Layout of the boot disk: the master boot record, grub's core image in the
// gap behind it, and one partition from the first MiB to the end.
const (
	sector        = 512
	partitionFrom = 1 << 20
	grubFolder    = "/usr/lib/grub/i386-pc"
)

// grubModules find the menu on the partition; normal loads nothing else.
var grubModules = []string{"biosdisk", "part_msdos", "ext2", "normal", "linux", "configfile"}

// writeBootDisk makes a raw disk of so many bytes that boots from the file system tree in root.
// It needs neither loop devices nor mounts: mke2fs copies the tree, and grub
// is written as its own installer would.
func writeBootDisk(ctx context.Context, raw, root string, diskBytes int64) error {
	f, err := os.Create(raw)
	if err != nil {
		return err
	}
	err = f.Truncate(diskBytes)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	// grub 2.06 reads ext4 without the newer checksum features.
	features, journal := "^metadata_csum,^metadata_csum_seed,^orphan_file,^64bit", []string{"-J", "size=16"}
	if diskBytes < 256<<20 { // too small for one, and nobody mounts it
		features, journal = features+",^has_journal", nil
	}
	args := append([]string{"-q", "-F", "-t", "ext4", "-L", "system", "-m", "1", "-O", features}, journal...)
	mkfs := exec.CommandContext(ctx, "mke2fs", append(args,
		"-E", fmt.Sprintf("offset=%d,lazy_itable_init=0,lazy_journal_init=0", partitionFrom), "-d", root,
		raw, fmt.Sprintf("%dk", (diskBytes-partitionFrom)/1024))...)
	if err := run(mkfs); err != nil {
		return fmt.Errorf("make the file system: %w", err)
	}
	core := filepath.Join(filepath.Dir(raw), "core.img")
	defer os.Remove(core)
	mkimage := exec.CommandContext(ctx, "grub-mkimage",
		append([]string{"-O", "i386-pc", "-o", core, "-p", "(hd0,msdos1)/boot/grub"}, grubModules...)...)
	if err := run(mkimage); err != nil {
		return fmt.Errorf("make the boot loader: %w", err)
	}
	return writeBootSectors(raw, filepath.Join(grubFolder, "boot.img"), core, diskBytes)
}

// writeBootSectors writes everything before the partition.
func writeBootSectors(raw, bootImg, coreImg string, diskBytes int64) error {
	boot, err := os.ReadFile(bootImg)
	if err != nil {
		return err
	}
	core, err := os.ReadFile(coreImg)
	if err != nil {
		return err
	}
	if len(boot) != sector || len(core) > partitionFrom-sector {
		return fmt.Errorf("boot loader does not fit: %d and %d bytes", len(boot), len(core))
	}
	f, err := os.OpenFile(raw, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(bootRecord(boot, diskBytes), 0); err != nil {
		return err
	}
	if _, err := f.WriteAt(core, sector); err != nil { // where boot.img looks for it
		return err
	}
	return f.Close()
}

// bootRecord is grub's first sector with a partition table of one bootable
// Linux partition.
func bootRecord(boot []byte, diskBytes int64) []byte {
	mbr := make([]byte, sector)
	copy(mbr, boot[:440])
	binary.LittleEndian.PutUint32(mbr[440:], 0x4c514c51) // disk signature: any
	p := mbr[446:462]
	p[0] = 0x80                  // bootable
	copy(p[1:4], "\xfe\xff\xff") // use LBA
	p[4] = 0x83                  // Linux
	copy(p[5:8], "\xfe\xff\xff") // use LBA
	binary.LittleEndian.PutUint32(p[8:], partitionFrom/sector)
	binary.LittleEndian.PutUint32(p[12:], uint32((diskBytes-partitionFrom)/sector)) //nolint:gosec // a small disk
	mbr[510], mbr[511] = 0x55, 0xaa
	return mbr
}

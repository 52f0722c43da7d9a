package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// loop is a block device over a file. It goes by itself when nobody has it open any more.
type loop struct {
	path, file string
	dev        *os.File
}

// openLoop finds the loop device of a file, which whoever was here before may have left to a guest that runs, or makes one.
func openLoop(file string) (*loop, error) {
	if l := findLoop(file); l != nil {
		return l, nil
	}
	back, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer back.Close() //nolint:errcheck // the device has its own
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close() //nolint:errcheck // asked only
	for range 100 {       // others take loop devices too
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE) //nolint:gosec // a descriptor
		if err != nil {
			return nil, fmt.Errorf("free loop device: %w", err)
		}
		l := &loop{path: fmt.Sprintf("/dev/loop%d", n), file: file}
		if l.dev, err = os.OpenFile(l.path, os.O_RDWR, 0); err != nil {
			return nil, err
		}
		c := unix.LoopConfig{Fd: uint32(back.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}} //nolint:gosec // a descriptor
		copy(c.Info.File_name[:], filepath.Base(file))
		err = unix.IoctlLoopConfigure(int(l.dev.Fd()), &c) //nolint:gosec // a descriptor
		if err == nil {
			return l, nil
		}
		_ = l.dev.Close()
		if err != unix.EBUSY { //nolint:errorlint // of ioctl
			return nil, fmt.Errorf("loop device over %s: %w", file, err)
		}
	}
	return nil, fmt.Errorf("no free loop device for %s", file)
}

func findLoop(file string) *loop {
	backs, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, b := range backs {
		if name, err := os.ReadFile(b); err != nil || string(name) != file+"\n" {
			continue
		}
		l := &loop{path: filepath.Join("/dev", filepath.Base(filepath.Dir(filepath.Dir(b)))), file: file}
		var err error
		if l.dev, err = os.OpenFile(l.path, os.O_RDWR, 0); err == nil {
			return l
		}
	}
	return nil
}

// close lets go of the device and waits until it is gone.
func (l *loop) close() error {
	if err := l.dev.Close(); err != nil {
		return err
	}
	for range 200 {
		if name, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(l.path), "loop/backing_file")); err != nil || string(name) != l.file+"\n" {
			time.Sleep(50 * time.Millisecond) // the file is closed a moment later
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("%s is still in use", l.path)
}

// grow takes on the size that the file has now.
func (l *loop) grow() error {
	if _, err := os.Stat(l.file); err != nil { // the kernel asks for the size
		return err
	}
	return unix.IoctlSetInt(int(l.dev.Fd()), unix.LOOP_SET_CAPACITY, 0) //nolint:gosec // a descriptor
}

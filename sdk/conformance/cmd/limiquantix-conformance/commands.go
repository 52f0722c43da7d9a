package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// writeBy writes to an attached volume by a command: its last arguments are the byte to write, the offset and the length; the source, a
// limiquantix.driver.v1.DiskSource as JSON, comes on standard input, since it may hold a key.
func writeBy(argv []string) func(context.Context, *driverv1.DiskSource, byte, int64, int64) error {
	return func(ctx context.Context, src *driverv1.DiskSource, pattern byte, offset, n int64) error {
		source, err := protojson.Marshal(src)
		if err != nil {
			return err
		}
		args := append(argv[1:len(argv):len(argv)], strconv.Itoa(int(pattern)), strconv.FormatInt(offset, 10), strconv.FormatInt(n, 10))
		_, err = output(ctx, source, argv[0], args...)
		return err
	}
}

// objectsBy lists what a command prints, a name a line.
func objectsBy(argv []string) func(context.Context) ([]string, error) {
	return func(ctx context.Context) ([]string, error) {
		out, err := output(ctx, nil, argv[0], argv[1:]...)
		return strings.FieldsFunc(out, func(r rune) bool { return r == '\n' }), err
	}
}

func output(ctx context.Context, stdin []byte, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // the user's own configuration names it
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// Package upload sends a file as an image.
package upload

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/limiquantix/limiquantix/cli/internal/api"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// chunk is what one message carries; the API takes up to 1 MiB.
const chunk = 512 << 10

// Checksum reads r to its end and returns its SHA-256 in hex. done hears how many bytes were read so far.
func Checksum(ctx context.Context, r io.Reader, done func(int64)) (string, error) {
	h := sha256.New()
	err := chunks(ctx, r, done, func(b []byte) error {
		h.Write(b)
		return nil
	})
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Send streams r under the header. done hears how many bytes were sent so far.
func Send(ctx context.Context, c *api.Client, header *storagev1.UploadImageHeader, r io.Reader, done func(int64)) (*storagev1.UploadImageResponse, error) {
	ctx, cancel := context.WithCancel(ctx) // breaks the stream off when reading fails
	defer cancel()
	stream := c.Images.UploadImage(ctx)
	err := stream.Send(&storagev1.UploadImageRequest{Message: &storagev1.UploadImageRequest_Header{Header: header}})
	if err == nil {
		err = chunks(ctx, r, done, func(b []byte) error {
			return stream.Send(&storagev1.UploadImageRequest{Message: &storagev1.UploadImageRequest_Data{Data: b}})
		})
	}
	if err != nil && !errors.Is(err, io.EOF) { // io.EOF: the answer says why
		return nil, err
	}
	resp, err := stream.CloseAndReceive()
	if err != nil {
		return nil, err
	}
	return resp.Msg, nil
}

// chunks passes r on in pieces. An error of r is marked as such, so that it is never taken for one of the stream.
func chunks(ctx context.Context, r io.Reader, done func(int64), each func([]byte) error) error {
	buf := make([]byte, chunk)
	var sum int64
	for {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			if err := each(buf[:n]); err != nil {
				return err
			}
			sum += int64(n)
			done(sum)
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return fmt.Errorf("read the file: %w", err)
		}
	}
}

// LooksLike guesses the format from a file's first bytes, to tell a user what to declare; nothing acts on it.
func LooksLike(head []byte) storagev1.ImageFormat {
	if bytes.HasPrefix(head, []byte("QFI\xfb")) {
		return storagev1.ImageFormat_IMAGE_FORMAT_QCOW2
	}
	return storagev1.ImageFormat_IMAGE_FORMAT_RAW
}

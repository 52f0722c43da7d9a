package command

import (
	"context"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/cli/internal/api"
	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/progress"
	"github.com/limiquantix/limiquantix/cli/internal/render"
	"github.com/limiquantix/limiquantix/cli/internal/upload"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

type importFlags struct {
	file, url, format, sha256, pool string
	nodes, labels, aliases          []string
	noWait                          bool
}

func (s *session) imageImport() *cobra.Command {
	var f importFlags
	cmd := &cobra.Command{
		Use:   "import NAME",
		Short: "Store a file, or what a URL holds, as an image",
		Long: "Uploads a file (\"-\" = standard input), or lets the nodes fetch a URL. A kernel, an initrd or an ISO is raw.\n" +
			"The SHA-256 of a file is computed here first, so that a broken upload is noticed; with --sha256 it must be that one.",
		Example: "  lqctl image import debian --file debian.qcow2 --format qcow2\n" +
			"  lqctl image import vmlinuz --file /boot/vmlinuz --format raw --node host1\n" +
			"  lqctl image import debian --url https://cloud.example/debian.qcow2 --format qcow2 --sha256 $(cut -d' ' -f1 SHA256SUMS)",
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			labels, err := pairs("--label", f.labels)
			if err != nil {
				return err
			}
			if err := f.check(); err != nil {
				return err
			}
			format, err := enumFlag[storagev1.ImageFormat]("--format", f.format, storagev1.ImageFormat_name, "IMAGE_FORMAT_")
			if err != nil {
				return err
			}
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			var image *storagev1.Image
			var op *operationv1.Operation
			if f.url != "" {
				image, op, err = f.fetch(cmd.Context(), c, &metav1.ObjectMeta{Name: args[0], ProjectId: project, Labels: labels}, format)
			} else {
				image, op, err = f.send(cmd.Context(), s, c, &storagev1.UploadImageHeader{
					Name: args[0], ProjectId: project, Labels: labels, Format: format, Sha256: f.sha256, Pool: f.pool, NodeIds: f.nodes, Aliases: f.aliases,
				})
			}
			if err != nil {
				return err
			}
			it := accepted{name: args[0], op: op, object: image, final: imageNow(c, image), done: "imported"}
			return s.settle(cmd.Context(), c, []accepted{it}, f.noWait, false)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.file, "file", "", "file to upload; - = standard input")
	fl.StringVar(&f.url, "url", "", "http or https URL that nodes fetch; needs --sha256")
	fl.StringVar(&f.format, "format", "", "format of the content: raw or qcow2; never guessed")
	fl.StringVar(&f.sha256, "sha256", "", "SHA-256 that the content must have")
	fl.StringVar(&f.pool, "pool", "", "pool for the copies; default: local")
	fl.StringArrayVar(&f.nodes, "node", nil, "node that gets a copy; repeatable; default: all that are ready")
	fl.StringArrayVar(&f.labels, "label", nil, "label key=value; repeatable")
	fl.StringArrayVar(&f.aliases, "alias", nil, "further name; repeatable")
	complete(cmd, "format", fixed("raw", "qcow2"))
	complete(cmd, "node", s.nodeNames)
	addNoWait(cmd, &f.noWait)
	return cmd
}

var sha256Form = regexp.MustCompile(`^[0-9a-f]{64}$`)

func (f *importFlags) check() error {
	f.sha256 = strings.ToLower(strings.TrimSpace(f.sha256))
	switch {
	case (f.file == "") == (f.url == ""):
		return failure.Usage("give either --file or --url").WithFix("write for example --file debian.qcow2 --format qcow2")
	case f.format == "":
		return f.formatMissing()
	case f.sha256 != "" && !sha256Form.MatchString(f.sha256):
		return failure.Usage("--sha256 %q is no SHA-256", f.sha256).WithFix("give 64 hexadecimal digits, as sha256sum prints them")
	case f.url != "" && f.sha256 == "":
		return failure.Usage("--url needs --sha256").WithFix("take it from where the image is published")
	}
	return nil
}

// formatMissing names the format that the file seems to have; a user has to say it, since a guest could write another format's header into its disk.
func (f *importFlags) formatMissing() error {
	e := failure.Usage("--format is missing").WithFix("give --format raw or --format qcow2")
	if f.file == "" || f.file == "-" {
		return e
	}
	r, err := os.Open(f.file)
	if err != nil {
		return e
	}
	defer r.Close()
	head := make([]byte, 8)
	n, _ := io.ReadFull(r, head) // a short file has a short head
	return e.WithFix("the file looks like --format %s", render.Enum(upload.LooksLike(head[:n]), "IMAGE_FORMAT_"))
}

// fetch lets nodes fetch the URL.
func (f *importFlags) fetch(ctx context.Context, c *api.Client, meta *metav1.ObjectMeta, format storagev1.ImageFormat) (*storagev1.Image, *operationv1.Operation, error) {
	resp, err := c.Images.ImportImage(ctx, connect.NewRequest(&storagev1.ImportImageRequest{Image: &storagev1.Image{Meta: meta, Spec: &storagev1.ImageSpec{
		Format: format, Sha256: f.sha256, SourceUrl: f.url, PoolId: f.pool, NodeIds: f.nodes, Aliases: f.aliases,
	}}}))
	if err != nil {
		return nil, nil, err
	}
	return resp.Msg.GetImage(), resp.Msg.GetOperation(), nil
}

// send uploads the file.
func (f *importFlags) send(ctx context.Context, s *session, c *api.Client, header *storagev1.UploadImageHeader) (*storagev1.Image, *operationv1.Operation, error) {
	in := s.In
	if f.file != "-" {
		r, err := os.Open(f.file)
		if err != nil {
			return nil, nil, err
		}
		defer r.Close()
		info, err := r.Stat()
		if err != nil {
			return nil, nil, err
		}
		if !info.Mode().IsRegular() {
			return nil, nil, failure.Usage("--file %s is not a regular file", f.file).WithFix("give a file, or pipe it in with --file -")
		}
		header.ContentBytes = info.Size()
		if header.Sha256 == "" {
			if header.Sha256, err = s.checksum(ctx, r, header); err != nil {
				return nil, nil, err
			}
			if _, err := r.Seek(0, io.SeekStart); err != nil {
				return nil, nil, err
			}
		}
		in = io.LimitReader(r, header.ContentBytes)
	}
	rep := s.reporter()
	defer rep.Close()
	t := progress.Transfer{Reporter: rep, Mode: s.progressMode(), Label: header.GetName() + ": uploading", Total: header.GetContentBytes(), Now: s.Now}
	resp, err := upload.Send(ctx, c, header, in, func(done int64) {
		t.Add(done)
		if done == header.GetContentBytes() && s.progressMode() == progress.TTY {
			rep.Update(header.GetName() + ": sent; the nodes check and store it")
		}
	})
	if err != nil {
		return nil, nil, err
	}
	return resp.GetImage(), resp.GetOperation(), nil
}

func (s *session) checksum(ctx context.Context, r io.Reader, header *storagev1.UploadImageHeader) (string, error) {
	mode := s.progressMode()
	if mode == progress.Lines {
		mode = progress.Quiet // the upload's lines are enough
	}
	rep := progress.New(s.Err, mode)
	defer rep.Close()
	t := progress.Transfer{Reporter: rep, Mode: mode, Label: header.GetName() + ": checksum", Total: header.GetContentBytes(), Now: s.Now}
	return upload.Checksum(ctx, r, t.Add)
}

// imageNow reads an image once it is in.
func imageNow(c *api.Client, image *storagev1.Image) func(context.Context) (proto.Message, string, error) {
	return func(ctx context.Context) (proto.Message, string, error) {
		resp, err := c.Images.GetImage(ctx, connect.NewRequest(&storagev1.GetImageRequest{Id: image.GetMeta().GetId()}))
		if err != nil {
			return nil, "", err
		}
		ready := 0
		for _, cp := range resp.Msg.GetImage().GetStatus().GetCopies() {
			if cp.GetPhase() == storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_READY {
				ready++
			}
		}
		noun := "copies"
		if ready == 1 {
			noun = "copy"
		}
		return resp.Msg.GetImage(), fmt.Sprintf("%d %s", ready, noun), nil
	}
}

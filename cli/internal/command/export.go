package command

import (
	"fmt"
	"os"
	"path/filepath"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/limiquantix/limiquantix/cli/internal/download"
	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/progress"
	"github.com/limiquantix/limiquantix/cli/internal/quantity"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

func (s *session) volumeExport() *cobra.Command {
	return s.export("export NAME", "Write a volume that nothing uses into a file, raw", "  lqctl volume export data --file data.raw", s.volumeNames, func(name, project string) *storagev1.ExportVolumeRequest {
		return &storagev1.ExportVolumeRequest{Subject: &storagev1.ExportVolumeRequest_Volume{Volume: name}, ProjectId: project}
	})
}

func (s *session) snapshotExport() *cobra.Command {
	return s.export("export NAME", "Write what a snapshot holds into a file, raw, also while its volume is in use", "  lqctl snapshot export monday --file monday.raw", s.snapshotNames, func(name, project string) *storagev1.ExportVolumeRequest {
		return &storagev1.ExportVolumeRequest{Subject: &storagev1.ExportVolumeRequest_Snapshot{Snapshot: name}, ProjectId: project}
	})
}

func (s *session) export(use, short, example string, names func(string) []string, ask func(name, project string) *storagev1.ExportVolumeRequest) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: use, Short: short, Example: example,
		Long: short + ". Holes stay holes where the file system can. The file has its name only once all of it is there.\n" +
			"--file - writes to standard output, zeros written out.",
		Args:              exactly("NAME"),
		ValidArgsFunction: completeArgs(1, names),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return failure.Usage("--file is missing").WithFix("write for example --file %s.raw, or --file - for standard output", args[0])
			}
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			stream, err := c.Volumes.ExportVolume(cmd.Context(), connect.NewRequest(ask(args[0], project)))
			if err != nil {
				return err
			}
			defer func() { _ = stream.Close() }()
			rep := s.reporter()
			defer rep.Close()
			t := &progress.Transfer{Reporter: rep, Mode: s.progressMode(), Label: args[0] + ": exporting", Now: s.Now}
			done := func(n, total int64) {
				t.Total = total
				t.Add(n)
			}
			if file == "-" {
				_, err := download.Write(stream, s.Out, done)
				return err
			}
			size, err := saveAs(file, func(f *os.File) (int64, error) { return download.WriteFile(stream, f, done) })
			if err != nil {
				return err
			}
			rep.Close()
			if !s.global.quiet {
				fmt.Fprintf(s.Err, "%s: %s in %s\n", args[0], quantity.FormatBytes(size), file)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "file to write; - = standard output")
	return cmd
}

// saveAs lets write fill a file, which gets its name when that has gone well; else nothing is left.
func saveAs(name string, write func(*os.File) (int64, error)) (size int64, err error) {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".part-")
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if size, err = write(f); err != nil {
		return 0, err
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	if err := f.Close(); err != nil {
		return 0, err
	}
	return size, os.Rename(f.Name(), name)
}

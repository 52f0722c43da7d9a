package command

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/limiquantix/limiquantix/cli/internal/api"
	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/manifest"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// maxManifest bounds a file of documents, in bytes.
const maxManifest = 16 << 20

const applyLong = `Creates what the documents describe, or changes it to be so, and waits until it is. A document is YAML or
JSON with "kind: VM" and the fields of the API, as lqctl vm show -o yaml prints them:

  kind: VM
  meta: {name: web, labels: {app: web}}
  spec:
    cpu: {vcpus: 2}
    memory_bytes: 1G
    disks:
    - name: root
      inline: {image: debian}
    nics:
    - name: nic0
      user: {forwards: [{host_port: 8022, guest_port: 22}]}

Besides the API's own JSON it takes amounts (1G) for *_bytes, short values (running, on-failure), and text for
user_data. An unknown key or a wrong value is refused with its line, before anything is changed.
Only fields that a document names are managed: what it leaves out stays as it is; null removes.
What the server writes (status, ids, times) may stand there and means nothing.`

func (s *session) applyCommand() *cobra.Command {
	var files []string
	var noWait bool
	cmd := &cobra.Command{
		Use:     "apply -f FILE",
		Short:   "Create or change VMs as documents describe them",
		Long:    applyLong,
		Example: "  lqctl apply -f web.yaml\n  lqctl vm show web -o yaml | sed '1i kind: VM' | lqctl apply -f -",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			docs, err := s.readManifests(files)
			if err != nil {
				return err
			}
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			var items []accepted
			for _, d := range docs {
				it, err := s.applyOne(cmd.Context(), c, d, project)
				if err != nil {
					return s.join(nonNil(s.settle(cmd.Context(), c, items, noWait, true), err))
				}
				items = append(items, it)
			}
			return s.settle(cmd.Context(), c, items, noWait, true)
		},
	}
	cmd.Flags().StringArrayVarP(&files, "filename", "f", nil, "file with documents; - = standard input; repeatable")
	addNoWait(cmd, &noWait)
	return cmd
}

func (s *session) readManifests(files []string) ([]manifest.Document, error) {
	if len(files) == 0 {
		return nil, failure.Usage("-f is missing").WithFix("name a file with documents, or - for standard input")
	}
	var docs []manifest.Document
	var problems manifest.Problems
	for _, name := range files {
		data, err := s.readFile(name)
		if err != nil {
			return nil, err
		}
		found, err := manifest.Parse(name, data)
		var bad manifest.Problems
		if errors.As(err, &bad) {
			problems = append(problems, bad...)
		} else if err != nil {
			return nil, err
		}
		docs = append(docs, found...)
	}
	if len(problems) > 0 {
		return nil, failure.New(failure.ExitUsage, failure.ReasonManifest, "%w", problems).
			WithFix("correct the documents; nothing was changed (lqctl apply --help shows one)")
	}
	return docs, nil
}

func (s *session) readFile(name string) ([]byte, error) {
	r := s.In
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	var b bytes.Buffer
	n, err := io.Copy(&b, io.LimitReader(r, maxManifest+1))
	if err == nil && n > maxManifest {
		return nil, failure.Usage("%s is larger than 16 MiB", name).WithFix("split it")
	}
	return b.Bytes(), err
}

// applyOne makes one document so. Whether something changed is the controller's word: what differs between before and after.
func (s *session) applyOne(ctx context.Context, c *api.Client, d manifest.Document, project string) (accepted, error) {
	meta := d.VM.GetMeta()
	if meta.GetProjectId() == "" {
		meta.ProjectId = project
	}
	name := meta.GetName()
	before, err := getVM(ctx, c, name, meta.GetProjectId())
	if failure.IsReason(err, metav1.Reason_REASON_NOT_FOUND) {
		resp, err := c.VMs.CreateVM(ctx, connect.NewRequest(&computev1.CreateVMRequest{Vm: d.VM}))
		if err != nil {
			return accepted{}, err
		}
		made := resp.Msg.GetVm()
		return accepted{name: name, op: resp.Msg.GetOperation(), object: made, final: vmNow(c, made), done: "created"}, nil
	}
	if err != nil {
		return accepted{}, err
	}
	paths := manifest.Differing(before, d.VM, d.Paths)
	if len(paths) == 0 {
		return accepted{name: name, object: before, done: "unchanged"}, nil
	}
	want := proto.CloneOf(d.VM)
	want.Meta.Id, want.Meta.Etag = before.GetMeta().GetId(), ""
	resp, err := c.VMs.UpdateVM(ctx, connect.NewRequest(&computev1.UpdateVMRequest{Vm: want, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}}))
	if err != nil {
		return accepted{}, err
	}
	after := resp.Msg.GetVm()
	changes := manifest.Diff(before, after)
	if len(changes) == 0 {
		return accepted{name: name, object: after, done: "unchanged"}, nil
	}
	it := accepted{name: name, op: resp.Msg.GetOperation(), object: after, final: vmNow(c, after), done: "updated"}
	for _, ch := range changes {
		it.changes = append(it.changes, ch.String())
	}
	return it, nil
}

func (s *session) deleteCommand() *cobra.Command {
	var files []string
	var noWait bool
	cmd := &cobra.Command{
		Use:     "delete -f FILE",
		Short:   "Delete the VMs that documents describe",
		Long:    "Deletes the VMs that documents name, as lqctl apply takes them. One that is gone already is no failure.",
		Example: "  lqctl delete -f web.yaml",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return failure.Usage("%q is one argument too many", args[0]).WithFix("lqctl delete takes documents with -f; by name: lqctl vm delete NAME, lqctl image delete NAME")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			docs, err := s.readManifests(files)
			if err != nil {
				return err
			}
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			var items []accepted
			for _, d := range docs {
				meta := d.VM.GetMeta()
				if meta.GetProjectId() == "" {
					meta.ProjectId = project
				}
				resp, err := c.VMs.DeleteVM(cmd.Context(), connect.NewRequest(&computev1.DeleteVMRequest{Id: meta.GetName(), ProjectId: meta.GetProjectId()}))
				switch {
				case failure.IsReason(err, metav1.Reason_REASON_NOT_FOUND):
					items = append(items, accepted{name: meta.GetName(), object: d.VM, done: "is gone already"})
				case err != nil:
					return s.join(nonNil(s.settle(cmd.Context(), c, items, noWait, true), err))
				default:
					items = append(items, accepted{name: meta.GetName(), op: resp.Msg.GetOperation(), object: resp.Msg.GetVm(), done: "deleted"})
				}
			}
			return s.settle(cmd.Context(), c, items, noWait, true)
		},
	}
	cmd.Flags().StringArrayVarP(&files, "filename", "f", nil, "file with documents; - = standard input; repeatable")
	addNoWait(cmd, &noWait)
	return cmd
}

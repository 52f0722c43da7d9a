package command

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/limiquantix/limiquantix/cli/internal/api"
	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/manifest"
)

// maxManifest bounds a file of documents, in bytes.
const maxManifest = 16 << 20

const applyLong = `Creates what the documents describe, or changes it to be so, and waits until it is. A document is YAML or JSON with a
kind (VM, Network, Port, SecurityGroup) and the fields of the API, as lqctl vm show -o yaml and the like print them:

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
      network: {network: lan, security_groups: [web]}
  ---
  kind: Network
  meta: {name: lan}
  spec:
    subnets: [{cidr: 10.4.0.0/24}]
    forwards: [{listen_port: 8080, port_id: web/nic0, target_port: 80}] # VM/NIC, or a port's name
  ---
  kind: SecurityGroup
  meta: {name: web}
  spec:
    rules:
    - {direction: ingress, protocol: tcp, port_first: 80, cidr: 0.0.0.0/0}

Groups are made first, then networks, ports, VMs, and forwards to ports, wherever they stand. A VM gets the interfaces that its document
names, and no other.
Besides the API's own JSON it takes amounts (1G) for *_bytes, rates (100M) for *_bits_per_second, short values (running,
on-failure), and text for user_data. An unknown key or a wrong value is refused with its line, before anything is changed.
Only fields that a document names are managed: what it leaves out stays as it is; null removes.
What the server writes (status, ids, times) may stand there and means nothing.`

func (s *session) applyCommand() *cobra.Command {
	var files []string
	var noWait bool
	cmd := &cobra.Command{
		Use:     "apply -f FILE",
		Short:   "Create or change VMs, networks, ports and security groups as documents describe them",
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
			sortDocuments(docs, manifest.Kinds)
			fresh, err := makeShells(cmd.Context(), c, docs, project)
			if err != nil {
				return err
			}
			var items []accepted
			for i, d := range docs {
				early, _ := withoutForwards(d)
				it, err := s.applyOne(cmd.Context(), c, early, project)
				if err != nil {
					return s.join(nonNil(s.settle(cmd.Context(), c, items, noWait, true), err))
				}
				if op := fresh[i]; op != nil {
					if it.op == nil {
						it.op = op
					}
					it.done, it.changes = "created", nil
				}
				items = append(items, it)
			}
			for i, d := range docs { // the ports that forwards lead to are there now
				if _, late := withoutForwards(d); !late {
					continue
				}
				it, err := s.applyOne(cmd.Context(), c, d, project)
				if err != nil {
					return s.join(nonNil(s.settle(cmd.Context(), c, items, noWait, true), err))
				}
				items[i] = items[i].and(it)
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

// sortDocuments orders documents by kind; those of one kind stay as they stand.
func sortDocuments(docs []manifest.Document, kinds []string) {
	slices.SortStableFunc(docs, func(a, b manifest.Document) int {
		return cmp.Compare(slices.Index(kinds, a.Kind), slices.Index(kinds, b.Kind))
	})
}

// placed gives an object that names no project the current one.
func placed(o manifest.Object, project string) (name, in string) {
	meta := o.GetMeta()
	if meta.GetProjectId() == "" {
		meta.ProjectId = project
	}
	return meta.GetName(), meta.GetProjectId()
}

// applyOne makes one document so. Whether something changed is the controller's word: what differs between before and after.
func (s *session) applyOne(ctx context.Context, c *api.Client, d manifest.Document, project string) (accepted, error) {
	verbs := verbsOf[d.Kind]
	name, project := placed(d.Object, project)
	it := accepted{name: name, kind: verbs.word}
	before, err := verbs.get(ctx, c, name, project)
	if failure.IsCode(err, codes.NotFound) {
		op, made, err := verbs.create(ctx, c, d.Object)
		if err != nil {
			return accepted{}, err
		}
		it.op, it.object, it.done = op, made, "created"
		it.finally(c, verbs, made)
		return it, nil
	}
	if err != nil {
		return accepted{}, err
	}
	want := proto.CloneOf(d.Object)
	if err := resolve(ctx, c, before, want); err != nil {
		return accepted{}, err
	}
	it.object, it.done = before, "unchanged"
	paths := manifest.Differing(before, want, d.Paths)
	if len(paths) == 0 {
		return it, nil
	}
	want.GetMeta().Id, want.GetMeta().Etag = before.GetMeta().GetId(), ""
	op, after, err := verbs.update(ctx, c, want, &fieldmaskpb.FieldMask{Paths: paths})
	if err != nil {
		return accepted{}, err
	}
	it.object = after
	changes := manifest.Diff(before, after)
	if len(changes) == 0 {
		return it, nil
	}
	it.op, it.done = op, "updated"
	it.finally(c, verbs, after)
	for _, ch := range changes {
		it.changes = append(it.changes, ch.String())
	}
	return it, nil
}

func (it *accepted) finally(c *api.Client, verbs kindVerbs, o manifest.Object) {
	if verbs.final != nil {
		it.final = verbs.final(c, o)
	}
}

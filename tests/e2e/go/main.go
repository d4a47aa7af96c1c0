// A client on grpc-go that walks through one daemon: what Go's implementation of gRPC and HTTP/2
// does with it is the question, so each step prints one line and the first failure ends the walk.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/bytestream"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

const (
	blobBytes  = 24 << 20
	chunkBytes = 256 << 10
	callers    = 64
	callsEach  = 50
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: grpc_go_client HOST:PORT")
		os.Exit(2)
	}
	connection, err := grpc.NewClient(
		os.Args[1],
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true,
		}),
	)
	if err != nil {
		fail("dial", err)
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()

	blob := make([]byte, blobBytes)
	if _, err := rand.Read(blob); err != nil {
		fail("random", err)
	}
	digest := fmt.Sprintf("%x/%d", sha256.Sum256(blob), len(blob))
	steps := []struct {
		name string
		do   func(context.Context, *grpc.ClientConn) error
	}{
		{"health", serving},
		{"unary calls side by side", manyCalls},
		{"status of a miss", missing},
		{"write", func(ctx context.Context, c *grpc.ClientConn) error { return write(ctx, c, digest, blob) }},
		{"write what is there", func(ctx context.Context, c *grpc.ClientConn) error { return write(ctx, c, digest, blob) }},
		{"read", func(ctx context.Context, c *grpc.ClientConn) error { return read(ctx, c, digest, blob) }},
		{"watch cut by a deadline", watchUntilDeadline},
		{"watch cancelled", watchUntilCancelled},
		{"health after all that", serving},
	}
	for _, step := range steps {
		if err := step.do(ctx, connection); err != nil {
			fail(step.name, err)
		}
		fmt.Println("ok", step.name)
	}
}

func fail(step string, err error) {
	fmt.Println("FAILED", step, err)
	os.Exit(1)
}

func serving(ctx context.Context, c *grpc.ClientConn) error {
	answer, err := grpc_health_v1.NewHealthClient(c).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err == nil && answer.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		err = fmt.Errorf("status %v", answer.Status)
	}
	return err
}

func manyCalls(ctx context.Context, c *grpc.ClientConn) error {
	var group sync.WaitGroup
	failures := make(chan error, callers)
	for range [callers]struct{}{} {
		group.Add(1)
		go func() {
			defer group.Done()
			for range [callsEach]struct{}{} {
				if err := serving(ctx, c); err != nil {
					failures <- err
					return
				}
			}
		}()
	}
	group.Wait()
	close(failures)
	return <-failures
}

func missing(ctx context.Context, c *grpc.ClientConn) error {
	name := fmt.Sprintf("blobs/%064x/7", 1)
	stream, err := bytestream.NewByteStreamClient(c).Read(ctx, &bytestream.ReadRequest{ResourceName: name})
	if err != nil {
		return err
	}
	_, err = stream.Recv()
	return demand(err, codes.NotFound)
}

func demand(err error, wanted codes.Code) error {
	if got := status.Code(err); got != wanted {
		return fmt.Errorf("wanted %v, got %v: %w", wanted, got, err)
	}
	return nil
}

// write sends every message unless the server has answered: grpc-go then says EOF.
func write(ctx context.Context, c *grpc.ClientConn, digest string, blob []byte) error {
	stream, err := bytestream.NewByteStreamClient(c).Write(ctx)
	if err != nil {
		return err
	}
	for offset := 0; offset < len(blob); offset += chunkBytes {
		err := stream.Send(&bytestream.WriteRequest{
			ResourceName: "uploads/01234567-89ab-4def-8123-456789abcdef/blobs/" + digest,
			WriteOffset:  int64(offset),
			Data:         blob[offset : offset+chunkBytes],
			FinishWrite:  offset+chunkBytes == len(blob),
		})
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	answer, err := stream.CloseAndRecv()
	if err == nil && answer.CommittedSize != int64(len(blob)) {
		err = fmt.Errorf("committed %d of %d", answer.CommittedSize, len(blob))
	}
	return err
}

func read(ctx context.Context, c *grpc.ClientConn, digest string, blob []byte) error {
	stream, err := bytestream.NewByteStreamClient(c).Read(ctx, &bytestream.ReadRequest{ResourceName: "blobs/" + digest})
	if err != nil {
		return err
	}
	var got bytes.Buffer
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		got.Write(message.Data)
	}
	if !bytes.Equal(got.Bytes(), blob) {
		return fmt.Errorf("%d bytes came back, and they differ", got.Len())
	}
	return nil
}

func watch(ctx context.Context, c *grpc.ClientConn) (grpc_health_v1.Health_WatchClient, error) {
	stream, err := grpc_health_v1.NewHealthClient(c).Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		return nil, err
	}
	_, err = stream.Recv()
	return stream, err
}

func watchUntilDeadline(ctx context.Context, c *grpc.ClientConn) error {
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	stream, err := watch(short, c)
	if err != nil {
		return err
	}
	_, err = stream.Recv()
	return demand(err, codes.DeadlineExceeded)
}

func watchUntilCancelled(ctx context.Context, c *grpc.ClientConn) error {
	cancelled, cancel := context.WithCancel(ctx)
	stream, err := watch(cancelled, c)
	if err != nil {
		cancel()
		return err
	}
	cancel()
	_, err = stream.Recv()
	return demand(err, codes.Canceled)
}

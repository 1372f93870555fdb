"""Say what pictures show, with the network and the code of this clone, whichever other one is installed."""

from cifar_resnet.serving import predict

if __name__ == "__main__":
    predict.run()

"""The application in several replicas, with a front that has a request painted again if its replica dies."""
